"""Both codes against FFmpeg's decoders, all 256 bytes of each."""

import av
import numpy as np
import pytest

from bcaf_stream.codecs import decode_alaw, decode_ulaw

ALL = bytes(range(256))


def ffmpeg(codec: str, data: bytes) -> np.ndarray:
    decoder = av.CodecContext.create(codec, "r")
    decoder.sample_rate = 8000
    decoder.layout = "mono"
    frames = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])


@pytest.mark.parametrize(("codec", "decode"), [("pcm_mulaw", decode_ulaw), ("pcm_alaw", decode_alaw)])
def test_every_byte_is_what_ffmpeg_makes_of_it(codec, decode):
    samples = decode(ALL)
    assert samples.dtype == np.int16
    assert samples.tolist() == ffmpeg(codec, ALL).tolist()


@pytest.mark.parametrize("decode", [decode_ulaw, decode_alaw])
def test_order_and_length_are_kept_and_the_result_is_ones_own(decode):
    data = bytes([0, 255, 7, 7, 128])
    samples = decode(data)
    assert samples.tolist() == [decode(bytes([b]))[0] for b in data]
    samples[:] = 1  # writing into it changes no table
    assert decode(data).tolist() != samples.tolist()
    assert decode(b"").shape == (0,)
