// The tray of alerts: what fires, and what may be done about it.

import { attribute, h, text } from "./dom.js"
import { clock } from "./emotions.js"
import { addressOf, post } from "./state.js"

const ORDER = ["firing", "recovering", "pending", "resolved", "retracted"]
const MUTE_MINUTES = 15
const MOST = 100

// Shares, counts and seconds alike, as the rule has them.
const number = (value) => String(Math.round(value * 100) / 100)

export class AlertTray {
  constructor(state, element, button) {
    this.state = state
    this.element = element
    this.button = button
    this.list = h("ul", { class: "alerts" })
    this.problem = h("p", { class: "bad", role: "alert" })
    this.muted = h("ul", { class: "muted" })
    this.close = h("button", { type: "button", onclick: () => this.toggle(false) }, "Close")
    element.append(h("div", { class: "bar" }, h("h2", {}, "Alerts"), this.close), this.problem, this.list, this.muted)
    button.addEventListener("click", () => this.toggle(element.hidden))
    element.addEventListener("keydown", (event) => event.key === "Escape" && this.toggle(false))
    this.update()
  }

  toggle(open) {
    this.element.hidden = !open
    attribute(this.button, "aria-expanded", open)
    if (open) this.close.focus()
    else this.button.focus()
  }

  update() {
    const alerts = [...this.state.rows.values()].flatMap((row) =>
      row.alerts.map((alert) => ({ ...alert, call: row.call, live: row.live })),
    )
    const rank = (alert) => ORDER.indexOf(alert.state)
    alerts.sort((a, b) => rank(a) - rank(b) || b.offset - a.offset)
    const loud = alerts.filter((alert) => alert.state === "firing" && !this.isQuiet(alert))
    text(this.button, loud.length ? `Alerts: ${loud.length} firing` : "Alerts")
    attribute(this.button, "data-kind", loud.length ? "bad" : null)
    const key = JSON.stringify([alerts, this.state.acknowledged, this.state.muted])
    if (key === this.key || (this.element.contains(document.activeElement) && document.activeElement !== this.close && key === this.key)) return
    this.key = key
    const focused = document.activeElement?.dataset?.focus
    this.list.replaceChildren(...alerts.slice(0, MOST).map((alert) => this.item(alert)))
    if (!alerts.length) this.list.append(h("li", { class: "empty" }, "No alert has come up."))
    const muted = Object.keys(this.state.muted).filter((rule) => this.state.isMuted(rule))
    this.muted.replaceChildren(...muted.map((rule) => this.mutedItem(rule)))
    if (focused) this.element.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus()
  }

  isQuiet(alert) {
    return Boolean(this.state.acknowledged[alert.id]) || this.state.isMuted(alert.rule)
  }

  item(alert) {
    const by = this.state.acknowledged[alert.id]
    // What was taken back has no value any more: why it was stands there alone.
    const said = [alert.state !== "retracted" && alert.annotations?.summary, alert.reason].filter(Boolean).join(": ")
    const value = typeof alert.value === "number" ? `${number(alert.value)} (limit ${number(alert.threshold)})` : ""
    const evidence = (alert.evidence ?? []).slice(0, 5)
    const open = alert.state === "firing" || alert.state === "pending"
    return h(
      "li",
      { class: `alert s-${alert.state}`, "data-quiet": this.isQuiet(alert) },
      h("p", {}, h("strong", {}, alert.rule), " ", h("span", { class: "badge" }, alert.state), " ", alert.labels?.severity),
      h("p", {}, h("a", { href: this.moment(alert, alert.end_ms) }, alert.call), " ", value),
      said && h("p", { class: "small" }, said),
      evidence.length > 0 &&
        h(
          "p",
          { class: "small" },
          "Evidence: ",
          evidence.flatMap((one, n) => [n ? ", " : "", h("a", { href: this.moment(alert, one.start_ms ?? one.offset_ms) }, clock(one.start_ms ?? one.offset_ms))]),
        ),
      by
        ? h("p", { class: "small" }, `Acknowledged by ${by.user}`)
        : open &&
            h(
              "p",
              { class: "actions" },
              h(
                "button",
                { type: "button", "data-focus": `a ${alert.id}`, onclick: () => this.send({ acknowledge: alert.id, call: alert.call }) },
                "Acknowledge",
              ),
              !this.state.isMuted(alert.rule) && this.muteForm(alert),
            ),
    )
  }

  muteForm(alert) {
    const minutes = h("input", { type: "number", min: 1, max: 1440, value: MUTE_MINUTES, "aria-label": `Minutes to mute ${alert.rule}` })
    const mute = () => this.send({ mute: alert.rule, minutes: Math.round(Number(minutes.value)) })
    return h("span", {}, h("button", { type: "button", "data-focus": `m ${alert.id}`, onclick: mute }, "Mute"), " for ", minutes, " min")
  }

  mutedItem(rule) {
    const until = new Date(Number(this.state.muted[rule]) / 1e6).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
    const end = () => this.send({ mute: rule, minutes: 0 })
    return h("li", {}, `${rule} is muted until ${until}. `, h("button", { type: "button", onclick: end }, "Hear it again"))
  }

  moment(alert, at) {
    return addressOf(`call/${encodeURIComponent(alert.call)}`, Number.isFinite(at) ? { t: at } : {})
  }

  async send(what) {
    try {
      await post("/alerts", what)
      text(this.problem, "")
    } catch (error) {
      text(this.problem, `That was not done: ${error.message}`)
    }
  }
}
