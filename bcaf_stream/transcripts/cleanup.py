"""What stands in a transcript and was not said: broken characters are mended, marks of sounds are blanked out.

`blank_marks` puts spaces where a mark stood, so that every word keeps its place in the text: words with their own
times are cut out of it afterwards.
"""

import html
import re

ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
C1 = re.compile("[\x80-\x9f]")
INVISIBLE = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
# UTF-8 that was once read as Windows-1252: the apostrophe, quotes, dashes and dots that captions have.
TWICE_ENCODED = re.compile("\u00e2\u20ac[\u0080-\u009f\u00a0-\u00bf\u0152-\u0178\u2018-\u2122\u02dc]")

SOUNDS = (
    r"applaus|beep|breath|buzz|chatter|chuckl|clap|clear\w* throat|click|cough|cries|cross-?talk|cry|dial tone"
    r"|ding|exhal|foreign|gasp|giggl|groan|hold music|indistinct|inaudible|inhal|keyboard|laugh|line ring"
    r"|mumbl|murmur|music|no audio|noise|pause|phone ring|ringing|sigh|silence|silent|singing|sniff|snor|sob"
    r"|speaking|static|typing|unclear|unintelligible|unknown|vocaliz|whisper|whistl|yawn|hesitation|mouth|background"
    r"|scoff|grunt|scream|shout"
)
SOUND = re.compile(rf"\b(?:{SOUNDS})", re.IGNORECASE)
CLOCK = re.compile(r"(?m)^\s*[\[(]\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d{1,3})?[\])][^\S\n]*")
LAUGHED_WORD = re.compile(r"\[laughter-([^\]\s]+)\]", re.IGNORECASE)  # Switchboard: a word that was laughed
MARKS = re.compile(
    r"<\|[^|>]*\|>"  # Whisper's own tokens
    r"|\[[^\[\]\n]*\]"
    r"|\(speaker \?\)"  # whisper.cpp, where it cannot tell
    r"|<[/\w][^<>\n]{0,40}>"
    r"|\{[^{}\n]*\}"
    rf"|\((?=[^()\n]*\b(?:{SOUNDS}))[^()\n]{{1,60}}\)"
    rf"|\*(?=[^*\n]*\b(?:{SOUNDS}))[^*\n]{{1,60}}\*"
    r"|[♪♫♬♩]+[^♪♫♬♩\n]*[♪♫♬♩]+"
    r"|[♪♫♬♩]+[^♪♫♬♩\n]*",
    re.IGNORECASE,
)
# A line that is nothing but words in brackets tells what is heard, unless it speaks itself.
ASIDE = re.compile(r"(?m)^[^\S\n]*(?:\((?!.*\b(?:I|you|we|me|my)\b)[^()\n\d]*[^()\n\d.?!]\)|\*[^*\n]*\*)[^\S\n]*$")
CHANGE = re.compile(r"(?m)^[^\S\n]*(?:>+|[-\u2013\u2014](?=[^\S\n]*[^\W\d_]))|(?<=\s)>>+(?=\s|$)")


def mend_encoding(text: str) -> str:
    """The text without traces of another encoding: C1 control codes are Windows-1252 that was read as Latin-1."""
    text = TWICE_ENCODED.sub(_decoded_again, text)
    return C1.sub(lambda found: found[0].encode("latin-1").decode("cp1252", "replace"), text)


def mend(text: str) -> str:
    """The text with the characters that it was meant to have.

    The encoding is mended, named and numbered entities are their characters (also when escaped twice), and
    what has no sound and no width is gone, and so is the time of day before a line.
    """
    text = mend_encoding(text)
    for _ in range(2):
        text = ENTITY.sub(lambda found: html.unescape(found[0]), text)
    return CLOCK.sub("", INVISIBLE.sub("", text)).replace("\xa0", " ").replace("\x00", "")


def blank_marks(text: str) -> str:
    """The text with spaces for what is no word: [MUSIC], (laughs), *sighs*, <unk>, ♪ a song ♪, >>, a dash."""
    text = LAUGHED_WORD.sub(lambda found: f"{found[1]:<{len(found[0])}}", text)
    for marks in (MARKS, ASIDE, CHANGE):
        text = marks.sub(lambda found: " " * len(found[0]), text)
    return text


def _decoded_again(found: re.Match[str]) -> str:
    try:
        return found[0].encode("cp1252").decode("utf-8")
    except UnicodeError:
        return found[0]
