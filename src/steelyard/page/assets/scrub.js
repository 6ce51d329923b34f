// A moment of a run: the slider picks one, the line says what the engine did then.
function show(place) {
  const {series, labels} = JSON.parse(place.querySelector('script').textContent);
  const input = place.querySelector('input');
  const i = Number(input.value);
  const at = series.at_s[i];
  const said = [`${at.toFixed(at < 10 ? 2 : 1)} s`];
  for (const [name, [label, unit]] of Object.entries(labels)) {
    const value = series[name][i];
    said.push(`${label} ${value.toLocaleString('en', {maximumSignificantDigits: 3})}${unit === '%' ? ' %' : ` ${unit}`}`);
  }
  place.querySelector('output').textContent = said.join(' · ');
  input.setAttribute('aria-valuetext', said.join(', '));
}

export function bind() {
  for (const place of document.querySelectorAll('[data-scrub]')) show(place);
}

document.addEventListener('input', event => {
  const place = event.target.closest?.('[data-scrub]');
  if (place) show(place);
});
