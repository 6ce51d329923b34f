// The address and the questions it holds: the first by name, of each further one what it changes (2.on=b200_sxm).
const COLUMN = /^([2-9])\.(.*)$/;

export function columns(search) {
  const first = new Map();
  const others = new Map();
  const view = new Map();
  const add = (map, name, value) => map.set(name, [...(map.get(name) || []), value]);
  for (const [name, value] of new URLSearchParams(search)) {
    const found = COLUMN.exec(name);
    if (name.startsWith('_')) view.set(name, value);
    else if (found) {
      if (!others.has(found[1])) others.set(found[1], new Map());
      if (found[2]) add(others.get(found[1]), found[2], value);
    } else if (value) add(first, name, value);
  }
  view.delete('_column');
  const questions = [first];
  for (const [, changed] of [...others].sort()) {
    const own = new Map([...first, ...changed]);
    for (const [name, values] of own) if (!values.some(Boolean)) own.delete(name);
    questions.push(own);
  }
  return {questions, view};
}

export function query({questions, view}, active = 1) {
  const [first, ...rest] = questions;
  const found = new URLSearchParams();
  const put = (name, values) => values.forEach(value => found.append(name, value));
  for (const [name, values] of first) put(name, values);
  rest.forEach((column, i) => {
    let same = true;
    for (const [name, values] of column) {
      if (String(first.get(name)) === String(values)) continue;
      put(`${i + 2}.${name}`, values);
      same = false;
    }
    for (const name of first.keys()) {
      if (column.has(name)) continue;
      put(`${i + 2}.${name}`, ['']);
      same = false;
    }
    if (same) put(`${i + 2}.`, ['']);
  });
  for (const [name, value] of view) found.append(name, value);
  if (active > 1) found.append('_column', active);
  return found.toString();
}
