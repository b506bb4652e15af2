// One utterance: its probabilities by what they were judged from, why it is as it is, and its former versions.

import { h } from "./dom.js"
import { clock, EMOTIONS, glyph, percent } from "./emotions.js"

const SOURCES = [
  ["probs", "together"],
  ["audio_probs", "sound"],
  ["text_probs", "words"],
]

export function details(one) {
  if (!one) return [h("p", { class: "empty" }, "Choose an utterance to see what its emotion rests on.")]
  const { event, stage, history } = one
  const sources = SOURCES.filter(([name]) => event[name] && Object.keys(event[name]).length)
  const labels = [...new Set([...EMOTIONS, ...Object.keys(event.probs ?? {})])].filter((label) => sources.some(([name]) => label in event[name]))
  const cell = (name, label) => {
    const value = event[name][label] ?? 0
    const bar = h("span", { class: "fill" })
    bar.style.width = `${Math.round(value * 100)}%`
    return h("td", {}, h("span", { class: "trough" }, bar), h("span", {}, percent(value)))
  }
  return [
    h("h2", {}, `${event.speaker ?? event.role ?? event.channel}, ${clock(event.start_ms, true)} to ${clock(event.end_ms, true)}`),
    h("p", { class: "words" }, event.text ?? "(no words)"),
    h("ul", { class: "why" }, why(event, stage).map((line) => h("li", {}, line))),
    sources.length > 0 &&
      h(
        "table",
        { class: "probs" },
        h("caption", {}, "Probabilities"),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "emotion"), sources.map(([, label]) => h("th", { scope: "col" }, label)))),
        h(
          "tbody",
          {},
          labels.map((label) =>
            h(
              "tr",
              { class: label === event.emotion ? "chosen" : null },
              h("th", { scope: "row" }, glyph(label), ` ${label}`),
              sources.map(([name]) => cell(name, label)),
            ),
          ),
        ),
      ),
    history.length > 0 &&
      h(
        "details",
        { open: true },
        h("summary", {}, `${history.length} former ${history.length === 1 ? "version" : "versions"}`),
        h("ol", {}, history.map((old) => h("li", {}, old.emotion ? `${old.emotion} ${percent(old.confidence)}: ` : "not judged: ", old.text ?? "(no words)"))),
      ),
  ].filter(Boolean)
}

function why(event, stage) {
  const lines = []
  const modalities = event.modalities ?? []
  if (stage === "unjudged") lines.push(`Not judged: ${event.reason ?? "nothing to judge by"}`)
  else if (stage === "interim") lines.push("Still speaking: this may change.")
  if (modalities.length === 2) lines.push("Judged by sound and words.")
  else if (modalities.length) lines.push(modalities[0] === "audio" ? "Judged by its sound alone." : "Judged by its words alone.")
  if (stage !== "unjudged" && event.reason) lines.push(event.reason)
  for (const missing of event.degraded ?? []) if (missing !== event.reason) lines.push(`Degraded: ${missing}`)
  if (event.text_source === "asr") {
    const sure = event.text_confidence === undefined ? "" : `, ${percent(event.text_confidence)} sure of them`
    lines.push(`The words are recognised${sure}.`)
  } else if (event.text_source === "given") lines.push("The words were given.")
  if (event.overlap) lines.push(`Others talk in ${percent(event.overlap)} of it.`)
  if (event.speaker_confidence !== undefined) lines.push(`The speaker is ${percent(event.speaker_confidence)} sure.`)
  if (event.model) lines.push(`Model ${event.model}`)
  return lines
}
