"""What a stream of bytes is, by its first ones: a container's magic, whatever its name or its sender says.

Raw samples have no magic, so that a false alarm is possible only where samples spell one: all signs here are
at least 32 bits at a fixed place, but for MP3 and ADTS, whose short sync word must come again where the
first frame says that it ends.
"""

SNIFF_BYTES = 4096  # enough to see the second frame of any MPEG audio

_MAGIC: dict[bytes, str] = {
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"\x1a\x45\xdf\xa3": "matroska",
    b".snd": "au",
    b"caff": "caf",
    b"#!AMR": "amr",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"wvpk": "wavpack",
    b"MAC ": "ape",
    b"TTA1": "tta",
    b"FLV\x01": "flv",
    b"riff\x2e\x91\xcf\x11": "w64",
    b"NIST_1A\n": "nist",
    b"Creative Voice File\x1a": "voc",
    b".RMF": "rm",
    b"#!SILK_V3": "silk",
    b"\x02#!SILK_V3": "silk",
    b"\x00\x00\x01\xba": "mpeg",
}
_MP4_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"wide", b"free", b"skip")
_TS_PACKET = 188
_MPEG_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}  # by version
_KBITS_1 = {
    3: (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),  # by layer's bits: 3 is layer I
    2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_KBITS_2 = {
    3: (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    1: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def sniff(head: bytes) -> str | None:
    """The container that begins with these bytes by its short name ("wav", "ogg", "mp4", ...), or None.

    Args:
        head: the beginning of a file or stream; with less than SNIFF_BYTES, MP3, ADTS and MPEG-TS may go unseen.
    """
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and len(head) >= 12:
        return {b"WAVE": "wav", b"AVI ": "avi"}.get(head[8:12], "riff")
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC", b"8SVX"):
        return "aiff"
    if head[4:8] in _MP4_BOXES:
        return "mp4"
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if head[:3] == b"ID3" and len(head) >= 10 and head[3] < 0xFF and max(head[6:10]) < 0x80:
        return "mp3"
    packets = range(0, len(head), _TS_PACKET)
    if len(packets) > 2 and all(head[at] == 0x47 for at in packets) and len(set(head[:_TS_PACKET])) > 2:
        return "mpegts"
    return _mpeg_audio(head)


def _mpeg_audio(head: bytes) -> str | None:
    """MP3 or ADTS, where three headers of the same kind stand where the frames' lengths say."""
    for name, length_of in (("mp3", _mp3_frame), ("aac", _adts_frame)):
        at, frames, first = 0, 0, head[:2]
        while frames < 3 and (length := length_of(head[at : at + 8])) and head[at : at + 2] == first:
            at += length
            frames += 1
        if frames == 3:
            return name
    return None


def _mp3_frame(header: bytes) -> int:
    """Bytes of the frame that begins here; 0 where none does. ISO 11172-3, 2.4.1.3 and 13818-3."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return 0
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    kbits, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 0 or kbits in (0, 15) or rate == 3:
        return 0
    hertz = _MPEG_RATES[version][rate]
    bits = (_KBITS_1 if version == 3 else _KBITS_2)[layer][kbits - 1] * 1000
    if layer == 3:
        return (12 * bits // hertz + padding) * 4
    return (144 if layer == 2 or version == 3 else 72) * bits // hertz + padding


def _adts_frame(header: bytes) -> int:
    """Bytes of the frame that begins here; 0 where none does. ISO 13818-7, 6.2."""
    if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or header[2] >> 2 & 15 > 12:
        return 0
    length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return length if length >= 7 else 0
