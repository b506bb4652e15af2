"""A wire that can be cut: forwards TCP connections to another port of this machine."""

import contextlib
import socket
import threading


class TcpProxy:
    """`endpoint` leads to `target` (tcp://127.0.0.1:PORT); `cut` breaks what is connected at that moment.

    `lead_to` is what a stable name does: from then on connections go elsewhere.
    """

    def __init__(self, target: str, port: int = 0) -> None:
        self._target = ("127.0.0.1", 0)
        self.lead_to(target)
        self._listening = socket.create_server(("127.0.0.1", port))
        self.endpoint = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def lead_to(self, target: str) -> None:
        self._target = ("127.0.0.1", int(target.rpartition(":")[2]))

    def cut(self) -> None:
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # close alone does not wake who waits in accept
        self._listening.close()
        self.cut()

    def __enter__(self) -> "TcpProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()  # nobody is there at the moment
                continue
            for one, other in ((near, far), (far, near)):
                self._open.add(one)
                threading.Thread(target=self._forward, args=(one, other), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()
