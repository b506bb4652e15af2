"""How a report looks: colours that were measured for colour blindness, light, dark and on paper."""

COLOURS = {
    "anger": "#D55E00",
    "disgust": "#009E73",
    "fear": "#CC79A7",
    "joy": "#E69F00",
    "sadness": "#0072B2",
    "surprise": "#56B4E9",
    "neutral": "var(--neutral)",
    "other": "#888888",
}
LIGHT_LETTERS = ("sadness",)  # white on them is read better than black; on neutral it depends on the page

STYLE = (
    """
:root{color-scheme:light dark;--neutral:#4D4D4D;--on-neutral:#fff;--edge:#222;--line:#8886;--soft:#00000008}
@media screen and (prefers-color-scheme:dark){
:root{--neutral:#F0F0F0;--on-neutral:#000;--edge:#0000;--soft:#ffffff10}}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;padding:0 1rem;max-width:68rem}
h1{font-size:1.6rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2rem 0 .5rem;break-after:avoid}
table{border-collapse:collapse}
th,td{padding:.25rem 1rem .25rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
.long{overflow-wrap:anywhere}
tr{break-inside:avoid}
thead{display:table-header-group}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.scroll{overflow-x:auto}
svg{width:100%;height:auto;background:var(--soft)}
svg text{font-size:12px;fill:currentColor}
svg .on{text-anchor:middle;font-weight:700;fill:#000}
svg .on-neutral{fill:var(--on-neutral)}
rect{stroke:var(--edge);stroke-width:1}
.gap{fill:none;stroke:currentColor;stroke-dasharray:3}
.tag{display:inline-block;min-width:1.2em;text-align:center;font-weight:700;border-bottom:3px solid}
tr:target{outline:2px solid #E69F00}
@media print{:root{color-scheme:light}body{margin:0;padding:0;max-width:none;font-size:10pt}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}a{color:inherit;text-decoration:none}}
"""
    + "".join(
        f"rect.{name}{{fill:{colour}}}.tag.{name}{{border-color:{colour}}}\n" for name, colour in COLOURS.items()
    )
    + "".join(f"svg .on-{name}{{fill:#fff}}\n" for name in LIGHT_LETTERS)
)
