"""One file a vendor. To add one, `acme`: this folder's acme.py, and one line in servers.py.

acme.py holds three classes, and no I/O (the architecture test says so):

- `AcmeConfig(ConnectionConfig)`: the keys of its server's configuration; `protocol()` makes an `Acme`.
- `Acme(WebSocketProtocol)`, or `TcpProtocol`: its `name`, and `parser()` for each new connection. Signatures,
  subprotocols and legs that come by connections of their own have methods there with defaults.
- `AcmeParser(Parser)`: `push(data, received_at)` gives a `CallStart` with its `Channel`s, then sound. Samples
  without a clock of the sender's go through `pcm_stream.PcmStream`; with positions through `track.Track`; both put
  packets in order by `jitter.JitterBuffer`. What the peer wrote is read by `fields.Fields`, whose errors never
  quote it.

The line is a field of `ServersConfig`: `acme: AcmeConfig | None = None`. Tokens, addresses, TLS, limits and
hanging up come with it. `browser.py` is the shortest example; its tests show how a parser and a server are tested.
"""
