// Files dropped on the page: of large formats the header alone is sent.
const HEADER = 32 * 2 ** 20;
const MOST = 64 * 2 ** 20;

async function part(file) {
  if (file.name.endsWith('.gguf')) return file.slice(0, HEADER);
  if (file.name.endsWith('.safetensors') && file.size > 8) {
    const head = new DataView(await file.slice(0, 8).arrayBuffer());
    return file.slice(0, Math.min(Number(head.getBigUint64(0, true)) + 8, MOST));
  }
  return file;
}

export function bind(root, set, say) {
  const take = async file => {
    say(`reading ${file.name}`);
    const body = await part(file);
    if (body.size > MOST) {
      say(`${file.name} has ${Math.round(body.size / 2 ** 20)} MiB; at most ${MOST / 2 ** 20} are taken. Use its path on the command line`, true);
      return;
    }
    try {
      const address = `/drop?${new URLSearchParams({name: file.name, size: file.size})}`;
      const found = await fetch(address, {method: 'POST', body});
      const said = await found.json();
      if (!found.ok) say(said.problems.map(p => p.message).join('; '), true);
      else {
        await set({[said.field]: said.name});
        say(`${said.what}: kept until the server ends`);
      }
    } catch {
      say('the file could not be sent', true);
    }
  };
  root.addEventListener('change', event => {
    if (event.target.id !== 'file' || !event.target.files.length) return;
    take(event.target.files[0]);
    event.target.value = '';
  });
  let depth = 0;
  const over = on => document.body.classList.toggle('dropping', on);
  root.addEventListener('dragenter', () => over(++depth > 0));
  root.addEventListener('dragleave', () => over(--depth > 0));
  root.addEventListener('dragover', event => event.preventDefault());
  root.addEventListener('drop', event => {
    event.preventDefault();
    depth = 0;
    over(false);
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
}
