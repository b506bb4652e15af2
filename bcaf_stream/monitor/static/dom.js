// Elements without markup: whatever comes from a call becomes a text node or the value of an attribute.

const SVG = "http://www.w3.org/2000/svg"

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value)
    else if (value === true) element.setAttribute(name, "")
    else element.setAttribute(name, value)
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false))
  return element
}

export const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children)
export const s = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children)

export function text(element, value) {
  if (element.textContent !== value) element.textContent = value
}

export function attribute(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name)
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value)
}

// Puts the children of an element into this order and moves no more than it must.
export function order(parent, children) {
  let at = parent.firstElementChild
  for (const child of children) {
    if (child === at) at = at.nextElementSibling
    else parent.insertBefore(child, at)
  }
  while (at) {
    const next = at.nextElementSibling
    at.remove()
    at = next
  }
}

export const hidden = (words) => h("span", { class: "sr" }, words)

export function stored(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(`bcaf.${name}`)) ?? otherwise
  } catch {
    return otherwise
  }
}

export function store(name, value) {
  try {
    localStorage.setItem(`bcaf.${name}`, JSON.stringify(value))
  } catch {
    // a browser that keeps nothing: the page works, and forgets it
  }
}
