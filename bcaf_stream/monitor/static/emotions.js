// A colour and a glyph for each emotion: no seven colours are told apart by everybody.

import { s } from "./dom.js"

export const EMOTIONS = ["anger", "disgust", "fear", "sadness", "surprise", "joy", "neutral"]

export const known = (emotion) => (EMOTIONS.includes(emotion) ? emotion : "other")

export function glyph(emotion, size = 14) {
  return s(
    "svg",
    { class: `glyph e-${known(emotion)}`, width: size, height: size, viewBox: "-1 -1 18 18", "aria-hidden": "true" },
    s("use", { href: `#g-${known(emotion)}`, width: 16, height: 16 }),
  )
}

export const percent = (value) => (typeof value === "number" ? `${Math.round(value * 100)} %` : "")

export function clock(ms, tenths = false) {
  if (!Number.isFinite(ms)) return ""
  const seconds = Math.max(0, Math.floor(ms / 1000))
  const parts = [Math.floor(seconds / 60) % 60, seconds % 60].map((part) => String(part).padStart(2, "0"))
  const hours = Math.floor(seconds / 3600)
  const whole = hours ? `${hours}:${parts[0]}:${parts[1]}` : `${Number(parts[0])}:${parts[1]}`
  return tenths ? `${whole}.${Math.floor((Math.max(0, ms) % 1000) / 100)}` : whole
}

// A time of day from unix ns, which come as strings.
export function day(ns) {
  const date = new Date(Number(BigInt(ns) / 1000000n))
  const today = date.toDateString() === new Date().toDateString()
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
  return today ? time : `${date.toLocaleDateString([], { month: "short", day: "numeric" })} ${time}`
}
