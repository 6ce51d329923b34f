// Names offered while one types, asked of the server: each with what it is.
export function bind(root) {
  let timer = 0;
  const offer = async input => {
    const found = await fetch(`/api/names?${new URLSearchParams({kind: input.dataset.kind, q: input.value})}`);
    if (!found.ok) return;
    const {names} = await found.json();
    const before = input.value.includes(',') ? input.value.replace(/[^,]*$/, '') : '';
    input.list?.replaceChildren(...names.map(({name, what}) => {
      const option = document.createElement('option');
      option.value = before + name;
      option.label = what ? `${name} – ${what}` : name;
      return option;
    }));
  };
  const later = event => {
    const input = event.target;
    if (!input.dataset || !input.dataset.kind) return;
    clearTimeout(timer);
    timer = setTimeout(() => offer(input).catch(() => {}), event.type === 'focusin' ? 0 : 120);
  };
  root.addEventListener('input', later);
  root.addEventListener('focusin', later);
}
