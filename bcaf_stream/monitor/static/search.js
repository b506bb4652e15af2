// What was said: words, emotions, roles, times and alerts; searches can be kept under a name.

import { h, store, stored, text } from "./dom.js"
import { clock, day, EMOTIONS, glyph, percent } from "./emotions.js"
import { addressOf } from "./state.js"

export class SearchView {
  constructor(state, parameters) {
    this.results = h("ol", { class: "hits" })
    this.count = h("p", { role: "status" })
    this.saved = h("ul", { class: "saved" })
    this.name = h("input", { name: "name", required: true, maxlength: 60, id: "save-name" })
    const value = (name) => parameters.get(name) ?? ""
    const boxes = (name, values) =>
      values.map((one) =>
        h("label", { class: "check" }, h("input", { type: "checkbox", name, value: one, checked: parameters.getAll(name).includes(one) }), name === "emotion" && glyph(one), ` ${one}`),
      )
    this.form = h(
      "form",
      { class: "search", role: "search", onsubmit: (event) => (event.preventDefault(), this.go()) },
      h("label", { class: "wide" }, "Words, by their beginnings", h("input", { type: "search", name: "words", value: value("words") })),
      h("label", {}, "Call", h("input", { type: "search", name: "call", value: value("call") })),
      h("label", {}, "Alert rule (* for any)", h("input", { name: "alert", value: value("alert") })),
      h("label", {}, "From", h("input", { type: "datetime-local", name: "from", value: value("from") })),
      h("label", {}, "To", h("input", { type: "datetime-local", name: "to", value: value("to") })),
      h("fieldset", {}, h("legend", {}, "Emotions"), boxes("emotion", EMOTIONS)),
      h("fieldset", {}, h("legend", {}, "Roles"), boxes("role", ["customer", "agent", "speaker"])),
      h("button", { class: "main" }, "Search"),
    )
    const keep = h(
      "form",
      { class: "bar", onsubmit: (event) => (event.preventDefault(), this.keep()) },
      h("label", { for: "save-name" }, "Keep this search as"),
      this.name,
      h("button", {}, "Keep"),
    )
    this.element = h("div", { class: "page" }, h("h1", {}, "Search"), this.saved, this.form, keep, this.count, this.results)
    this.showSaved()
    if (parameters.size) this.search()
    else setTimeout(() => this.form.elements.words.focus())
  }

  stays(page, _, parameters) {
    return page === "search" && parameters.toString() === this.asked().toString()
  }

  destroy() {
    this.running?.abort()
  }

  asked() {
    return new URLSearchParams([...new FormData(this.form)].filter(([, value]) => value))
  }

  go() {
    const address = `#/search?${this.asked()}`
    if (location.hash === address) this.search()
    else history.pushState(null, "", address)
    this.search()
  }

  async search() {
    this.running?.abort()
    const running = (this.running = new AbortController())
    const asked = this.asked()
    for (const [name, bound] of [["from", "since"], ["to", "until"]]) {
      const at = asked.get(name) ? new Date(asked.get(name)).getTime() : NaN
      asked.delete(name)
      if (Number.isFinite(at) && at > 0) asked.set(bound, `${at}000000`)
    }
    text(this.count, "Searching ...")
    try {
      const answer = await fetch(`/search?${asked}`, { signal: running.signal })
      if (!answer.ok) throw new Error(await answer.text())
      this.show(await answer.json())
    } catch (error) {
      if (error.name !== "AbortError") text(this.count, `The search failed: ${error.message}`)
    }
  }

  show({ hits, more }) {
    const found = hits.length === 1 ? "One utterance" : `${hits.length} utterances`
    text(this.count, more ? `The latest ${hits.length} utterances; narrow the search for others.` : `${found} found.`)
    this.results.replaceChildren(
      ...hits.map((hit) =>
        h(
          "li",
          {},
          h("a", { href: addressOf(`call/${encodeURIComponent(hit.call)}`, { t: hit.start_ms }) }, hit.call), ` ${clock(hit.start_ms)} `,
          h("span", { class: "small" }, ` ${day(hit.at)} · ${hit.role ?? hit.channel}`),
          hit.emotion ? h("span", { class: "felt" }, glyph(hit.emotion), ` ${hit.emotion} ${percent(hit.confidence)}`) : h("span", { class: "felt" }, "not judged"),
          h("p", { class: "words" }, hit.text ?? "(no words)"),
        ),
      ),
    )
  }

  keep() {
    const kept = stored("searches", {})
    kept[this.name.value] = this.asked().toString()
    store("searches", kept)
    this.name.value = ""
    this.showSaved()
  }

  showSaved() {
    const kept = stored("searches", {})
    const forget = (name) => {
      const left = stored("searches", {})
      delete left[name]
      store("searches", left)
      this.showSaved()
    }
    this.saved.replaceChildren(
      ...Object.entries(kept).map(([name, asked]) =>
        h(
          "li",
          {},
          h("a", { href: `#/search?${asked}` }, name),
          h("button", { type: "button", "aria-label": `Forget the search ${name}`, onclick: () => forget(name) }, "×"),
        ),
      ),
    )
  }
}
