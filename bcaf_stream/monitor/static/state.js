// What every view shares: the rows of the list, and what was done about alerts.

export class State {
  constructor() {
    this.rows = new Map()
    this.acknowledged = {}
    this.muted = {}
    this.status = {}
  }

  // Takes a message of the stream; gives the names of the calls whose rows changed.
  take(message) {
    const changed = new Set()
    if (message.reset) {
      for (const name of this.rows.keys()) changed.add(name)
      this.rows.clear()
    }
    for (const row of message.rows ?? []) {
      this.rows.set(row.call, row)
      changed.add(row.call)
    }
    for (const name of message.gone ?? []) {
      this.rows.delete(name)
      changed.add(name)
    }
    this.acknowledged = message.acknowledged ?? this.acknowledged
    this.muted = message.muted ?? this.muted
    this.status = message.status ?? this.status
    return changed
  }

  isMuted(rule) {
    return Number(this.muted[rule] ?? 0) / 1e6 > Date.now()
  }
}

export const firing = (row) => row.alerts.filter((alert) => alert.state === "firing")

export function addressOf(path, parameters = {}) {
  const asked = new URLSearchParams(parameters).toString()
  return `#/${path}${asked ? `?${asked}` : ""}`
}

export async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  })
  if (!answer.ok) throw new Error(await answer.text())
}
