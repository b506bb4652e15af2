// What was said, in its order: interim, final and revised look different, and a revision shows what it changed.

import { attribute, h, hidden, order, text } from "./dom.js"
import { clock, glyph, percent } from "./emotions.js"

const STAGES = { interim: "speaking", final: "", revised: "revised", unjudged: "not judged" }
const MOST_WORDS = 400 // of each side of a comparison
const MARGIN_PX = 8

export class Transcript {
  constructor(choose) {
    this.choose = choose
    this.items = new Map()
    this.follow = true
    this.list = h("ol", { class: "transcript", "aria-label": "Transcript" })
    this.followButton = h("button", { type: "button", "aria-pressed": "true", onclick: () => this.setFollow(!this.follow) }, "Follow")
    this.list.addEventListener("click", (event) => {
      const item = event.target.closest("li[data-key]")
      if (item && getSelection().isCollapsed) choose(item.dataset.key)
    })
    this.list.addEventListener("wheel", () => this.follow && setTimeout(() => this.look()), { passive: true })
  }

  look() {
    const { scrollTop, clientHeight, scrollHeight } = this.list
    if (scrollHeight - scrollTop - clientHeight > 40) this.setFollow(false)
  }

  setFollow(follow) {
    this.follow = follow
    attribute(this.followButton, "aria-pressed", follow)
    text(this.followButton, follow ? "Follows" : "Stays")
    if (follow) this.list.scrollTop = this.list.scrollHeight
  }

  draw(model, selected) {
    const rows = [...model.inOrder().map((one) => ({ at: one.event.start_ms, one })), ...model.marks.map((mark) => ({ at: mark.at, mark }))]
    rows.sort((a, b) => a.at - b.at)
    const elements = []
    const keep = new Set()
    for (const { one, mark } of rows) {
      const key = one ? one.key : `mark ${mark.event.id}`
      keep.add(key)
      let item = this.items.get(key)
      if (!item) {
        item = { element: h("li", one ? { "data-key": key } : { class: "mark" }) }
        this.items.set(key, item)
      }
      if (one && item.event !== one.event) this.fill(item, one)
      else if (mark && !item.event) this.fillMark(item, mark)
      if (one) attribute(item.element, "data-selected", key === selected)
      elements.push(item.element)
    }
    for (const key of this.items.keys()) if (!keep.has(key)) this.items.delete(key)
    const grown = elements.length !== this.list.children.length
    order(this.list, elements)
    if (this.follow && (grown || model.changed.size)) this.list.scrollTop = this.list.scrollHeight
    model.changed.clear()
  }

  fill(item, one) {
    const { event, stage, history } = one
    item.event = event
    const { emotion, confidence } = event
    item.button ??= h("button", { type: "button", class: "moment", onclick: (click) => (click.stopPropagation(), this.choose(one.key)) })
    text(item.button, clock(event.start_ms, true))
    const before = history.at(-1)
    const words = [before && stage === "revised" ? difference(before.text ?? "", event.text ?? "") : (event.text ?? spoken(event, stage))].flat()
    attribute(item.element, "class", `st-${stage}`)
    item.element.replaceChildren(
      item.button,
      h("span", { class: "who" }, event.speaker ?? event.role ?? event.channel),
      h("span", { class: "felt" }, emotion ? [glyph(emotion), ` ${emotion} `, h("span", { class: "small" }, percent(confidence))] : "–"),
      h("span", { class: event.text ? "words" : "words none" }, words),
      STAGES[stage] ? h("span", { class: "badge" }, STAGES[stage]) : "",
      before && before.emotion !== emotion && before.emotion ? h("span", { class: "small" }, `was ${before.emotion}`) : "",
      event.degraded ? h("span", { class: "badge trouble", title: event.degraded.join("; ") }, "degraded") : "",
    )
  }

  fillMark(item, { event }) {
    item.event = event
    const lost = event.type === "audio.gap" ? `${((event.end_ms - event.start_ms) / 1000).toFixed(1)} s of sound are missing` : ""
    const what = { "audio.gap": lost, degraded: "Degraded", alert: `Alert ${event.rule ?? ""} ${event.state ?? ""}` }[event.type]
    item.element.append(
      h("span", { class: "small" }, clock(event.start_ms ?? event.end_ms ?? NaN, true)),
      h("span", { class: "who" }, event.role ?? event.channel ?? ""),
      h("span", { class: "remark" }, `${what}${event.reason ? `: ${event.reason}` : ""}`),
    )
  }

  // Within the list; the page itself moves only for the keyboard, whose focus must be seen.
  show(key, focus) {
    const item = this.items.get(key)
    if (!item) return
    const { top, bottom } = item.element.getBoundingClientRect()
    const list = this.list.getBoundingClientRect()
    if (top < list.top) this.list.scrollTop -= list.top - top + MARGIN_PX
    else if (bottom > list.bottom) this.list.scrollTop += bottom - list.bottom + MARGIN_PX
    if (!focus) return
    item.element.scrollIntoView({ block: "nearest" })
    item.button.focus({ preventScroll: true })
  }
}

const spoken = (event, stage) => (stage === "interim" ? "speaking ..." : stage === "unjudged" ? (event.reason ?? "nothing to judge by") : "(no words)")

// The words of two versions: what went, what came. Longest common subsequence.
export function difference(before, after) {
  const a = before.split(/\s+/).filter(Boolean).slice(0, MOST_WORDS)
  const b = after.split(/\s+/).filter(Boolean).slice(0, MOST_WORDS)
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1))
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1])
  const parts = []
  const add = (kind, word) => {
    if (parts.at(-1)?.kind === kind) parts.at(-1).words.push(word)
    else parts.push({ kind, words: [word] })
  }
  let i = 0
  let j = 0
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      add("", a[i++])
      j++
    } else if (i < a.length && (j >= b.length || length[i + 1][j] >= length[i][j + 1])) add("del", a[i++])
    else add("ins", b[j++])
  }
  return parts.flatMap(({ kind, words }) => [
    kind ? h(kind, {}, hidden(kind === "del" ? "deleted: " : "inserted: "), words.join(" ")) : words.join(" "),
    " ",
  ])
}
