// What the keys do and what the signs mean.

import { h, store, stored } from "./dom.js"
import { EMOTIONS, glyph } from "./emotions.js"

const KEYS = [
  ["/", "search"],
  ["?", "this help"],
  ["j, k or ↓, ↑", "in a call: next, last utterance"],
  ["Home, End", "in a call: first, last utterance"],
  ["Space", "in a call: play, pause"],
  ["[ and ]", "in a call: slower, faster"],
  ["←, →", "in a call: 5 s back, on"],
  ["l", "in a call: go to the end and stay there"],
  ["f", "in a call: the transcript follows, or stays"],
  ["c", "in a call: copy the address of this moment"],
  ["p", "in a call: play the utterance's sound, or stop it"],
]

export class Help {
  constructor(button) {
    this.button = button
    const keys = h("input", { type: "checkbox", checked: stored("keys", true), onchange: () => store("keys", keys.checked) })
    this.dialog = h(
      "dialog",
      { class: "help", "aria-labelledby": "help-title" },
      h("h2", { id: "help-title" }, "Help"),
      h("h3", {}, "Emotions"),
      h("ul", { class: "legend" }, EMOTIONS.map((emotion) => h("li", {}, glyph(emotion, 18), ` ${emotion}`))),
      h(
        "p",
        {},
        "The stronger the colour, the surer the model. An emotion is a model's reading of voice and words, not what a person feels: do not decide about a person by it.",
      ),
      h("h3", {}, "Keys"),
      h("label", { class: "check" }, keys, "Single keys are on"),
      h("dl", { class: "keys" }, KEYS.map(([key, what]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)))),
      h("form", { method: "dialog" }, h("button", { class: "main" }, "Close")),
    )
    document.body.append(this.dialog)
    button.addEventListener("click", () => this.open())
  }

  open() {
    this.dialog.showModal()
  }

  keysAreOn() {
    return stored("keys", true)
  }
}
