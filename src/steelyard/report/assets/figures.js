// Draws the figures of a page: every element with data-figure NAME whose data lies in the JSON block figure-NAME.
// With ECharts where the page has it; without, the sentence and the table of numbers remain, unfolded.
// `steelyardFigures.draw(root)` draws what lies under an element, `steelyardFigures.show(figure, data)` replaces what
// one figure shows.
(() => {
  'use strict';
  const charts = new Map(); // plot element -> {chart, data, figure, hidden}
  const SI = [[1e18, 'E'], [1e15, 'P'], [1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k'], [1, ''], [1e-3, 'm'],
    [1e-6, 'µ'], [1e-9, 'n'], [1e-12, 'p']];
  const BINARY = [[2 ** 40, 'TiB'], [2 ** 30, 'GiB'], [2 ** 20, 'MiB'], [2 ** 10, 'KiB'], [1, 'B']];
  const PREFIXED = new Set(['s', 'J', 'W', 'FLOP', 'FLOP/s', 'OP/s', 'B/s', 'Wh', 'tokens', 'tokens/s']);

  const significant = (v, digits) => {
    const text = Number(v.toPrecision(digits));
    return text.toLocaleString('en-US', {maximumFractionDigits: 12, maximumSignificantDigits: digits});
  };
  // A number in its unit; `digits` 4 for ticks, 3 with words.
  function write(v, unit, digits = 3) {
    if (v === null || v === undefined || Number.isNaN(v)) return '–';
    if (typeof v !== 'number') return String(v);
    const size = Math.abs(v);
    if (unit === '%') return `${significant(v, digits)} %`;
    if (unit === 'B') {
      const [factor, name] = BINARY.find(([f]) => size >= f) || [1, 'B'];
      return `${significant(v / factor, digits)} ${name}`;
    }
    if (unit === 's' && size >= 5400) {
      return size >= 172800 ? `${significant(v / 86400, digits)} d` : `${significant(v / 3600, digits)} h`;
    }
    if (PREFIXED.has(unit) && v !== 0 && !(unit === 's' && size >= 1)) {
      const [factor, prefix] = SI.find(([f]) => size >= f * 0.9995) || SI[SI.length - 1];
      return `${significant(v / factor, digits)} ${prefix}${unit}`;
    }
    let text = significant(v, digits);
    if (!unit || unit === '1') {
      if (size >= 1e4) {
        const [factor, prefix] = SI.find(([f]) => size >= f);
        text = `${significant(v / factor, digits)}${prefix}`;
      } else if (v !== 0 && size < 1e-3) text = v.toExponential(0).replace('e-', 'e−');
      return text;
    }
    return unit === 'USD' && size >= 0.1 && size < 1000 ? `${v.toFixed(2)} USD` : `${text} ${unit}`;
  }

  // Options: colours of the stylesheet, formatters by unit.
  function resolved(node, style) {
    if (Array.isArray(node)) return node.map(x => resolved(x, style));
    if (typeof node === 'string') return node.startsWith('--') ? style.getPropertyValue(node).trim() || '#888' : node;
    if (node === null || typeof node !== 'object') return node;
    const found = {};
    for (const [key, value] of Object.entries(node)) {
      if (key.endsWith('ormatter') && value && typeof value === 'object' && 'unit' in value) {
        const {unit} = value;
        found[key] = v => write(v, unit, 4);
        found[`${key}Unit`] = unit;
      } else if (key.endsWith('ormatter') && value && typeof value === 'object' && 'names' in value) {
        found[key] = v => value.names[v] || '';
        found.rows = true;
      } else if (key === 'words') found[key] = value;
      else found[key] = resolved(value, style);
    }
    return found;
  }
  const list = x => (Array.isArray(x) ? x : x ? [x] : []);
  const same = (x, change) => (Array.isArray(x) ? x.map(change) : x ? change(x) : x);

  function styledAxis(axis, side, ink, narrow, wide) {
    const text = {color: ink.soft, fontSize: 12};
    const name = side === 'x'
      ? {nameLocation: 'middle', nameGap: 26, nameTextStyle: text}
      : {nameLocation: 'end', nameGap: 12, nameTextStyle: {...text, align: 'left', padding: [0, 0, 0, -4]}};
    const found = {
      splitNumber: side === 'x' ? (narrow ? 3 : 6) : 4, ...name, ...axis,
      axisLine: {show: axis.type !== 'category' ? false : side === 'y', lineStyle: {color: ink.line}, ...axis.axisLine},
      axisTick: {show: false, ...axis.axisTick},
      minorTick: {show: false},
      splitLine: {show: axis.type !== 'category', lineStyle: {color: ink.line, width: 1}, ...axis.splitLine},
      axisLabel: {...text, hideOverlap: true, ...axis.axisLabel},
    };
    if (axis.ends === false) Object.assign(found.axisLabel, {showMinLabel: false, showMaxLabel: false});
    if (side === 'y' && (axis.type === 'category' || (axis.axisLabel && axis.axisLabel.rows))) {
      const room = narrow ? Math.max(108, Math.min(196, 0.43 * wide)) : 220;
      Object.assign(found.axisLabel, {width: room, overflow: 'truncate', interval: 0, color: ink.ink});
    }
    return found;
  }

  // Words under the pointer, as text and never as markup.
  function pointed(option) {
    return params => {
      const box = document.createElement('div');
      const many = Array.isArray(params) ? params : [params];
      const add = text => {
        const p = document.createElement('div');
        p.textContent = text;
        p.style.whiteSpace = 'pre-line';
        box.append(p);
      };
      const unit = which => {
        const axis = list(option[which])[0];
        return axis && axis.axisLabel ? axis.axisLabel.formatterUnit || '' : '';
      };
      if (Array.isArray(params) && params.length) {
        const x = params[0].axisValue;
        const name = list(option.xAxis)[0].name;
        add(`${name ? `${name}: ` : ''}${typeof x === 'number' ? write(x, unit('xAxis')) : x}`);
      }
      for (const p of many) {
        const words = p.data && p.data.words;
        if (words) add(words);
        else if (Array.isArray(params)) {
          if (option.series[p.seriesIndex].unnamed) continue;
          const value = Array.isArray(p.value) ? p.value[1] : p.value;
          add(`${p.seriesName}: ${write(value, unit('yAxis'))}`);
        } else if (Array.isArray(p.value)) {
          add(`${p.seriesName}: ${write(p.value[0], unit('xAxis'))}, ${write(p.value[1], unit('yAxis'))}`);
        } else add(`${p.seriesName || p.name}: ${write(p.value, unit('xAxis') || unit('yAxis'))}`);
      }
      return box;
    };
  }

  function themed(data, plot, legend) {
    const style = getComputedStyle(plot);
    const get = name => style.getPropertyValue(name).trim();
    const ink = {ink: get('--ink'), soft: get('--soft'), line: get('--line'), page: get('--page'), card: get('--card')};
    const narrow = plot.clientWidth < 520;
    const option = resolved(data.option, style);
    const {height, trigger, ...rest} = option;
    const upright = rest.series.some(s => s.markLine && s.markLine.data.some(d => d.xAxis !== undefined));
    const above = list(option.yAxis).some(a => a.name);
    const top = (above ? 26 : 10) + (upright ? (above ? 14 : 6) : 0);
    const down = list(option.yAxis).some(a => a.inverse);
    const grid = {left: 8, right: narrow ? 10 : 18, top: top + legend, bottom: list(option.xAxis).some(a => a.name) ? 30 : 8,
      outerBoundsMode: 'same', outerBoundsContain: 'axisLabel'};
    const colours = [0, 1, 2, 3, 4, 5].map(i => get(`--c${i}`));
    const lines = rest.series.length && rest.series.every(s => s.type === 'line');
    const full = {
      ...rest,
      animation: false,
      color: colours,
      backgroundColor: 'transparent',
      textStyle: {fontFamily: style.fontFamily, color: ink.ink},
      title: same(rest.title, t => ({textStyle: {fontSize: 13, fontWeight: 600, color: ink.ink}, padding: 0, ...t})),
      grid: rest.grid ? same(rest.grid, g => ({...g})) : grid,
      xAxis: same(rest.xAxis, a => styledAxis(a, 'x', ink, narrow, plot.clientWidth)),
      yAxis: same(rest.yAxis, a => styledAxis(upright && a.name ? {nameGap: 24, ...a} : a, 'y', ink, narrow, plot.clientWidth)),
      legend: {show: legend > 0, top: 0, left: 0, icon: 'roundRect', itemWidth: 12, itemHeight: 8,
        textStyle: {color: ink.ink}, data: named(rest.series).map(s => s.name)},
      aria: {enabled: true, label: {description: `${data.title}. ${data.says}`}},
      tooltip: {
        trigger: trigger || (lines ? 'axis' : 'item'), confine: true, backgroundColor: ink.page, borderColor: ink.line,
        padding: [6, 9], textStyle: {color: ink.ink, fontSize: 12}, transitionDuration: 0,
        axisPointer: {type: 'line', animation: false, lineStyle: {color: ink.soft}},
      },
      series: rest.series.map(s => styledSeries(s, ink, down)),
    };
    full.tooltip.formatter = pointed(full);
    return full;
  }

  function styledSeries(series, ink, down) {
    const s = {...series};
    if (s.type === 'line') {
      s.symbol = s.symbol || 'circle';
      s.symbolSize = s.symbolSize || 6;
      s.lineStyle = {width: 1.8, ...s.lineStyle};
      s.connectNulls = false;
      if (s.endLabel) s.endLabel = {fontSize: 11, ...s.endLabel};
    }
    if (s.type === 'scatter') s.symbolSize = s.symbolSize || 7;
    s.emphasis = {disabled: s.type === 'line', ...s.emphasis};
    s.data = s.data.map(d => (d && d.label ? {...d, label: {color: ink.ink, textBorderColor: ink.page, textBorderWidth: 2, fontSize: 12, ...d.label}} : d));
    if (s.label) s.label = {color: ink.ink, fontSize: 12, textBorderWidth: 0, ...s.label};
    if (s.markLine) {
      s.markLine = {
        animation: false, precision: 12, ...s.markLine,
        lineStyle: {type: [5, 4], width: 1, ...s.markLine.lineStyle},
        label: {fontSize: 11, position: 'insideEndTop', textBorderColor: ink.page, textBorderWidth: 3,
          ...s.markLine.label},
        data: s.markLine.data.map(d => (d.xAxis === undefined ? d
          : {...d, label: {position: down ? 'start' : 'end', distance: 2, ...d.label}})),
      };
    }
    return s;
  }

  const named = series => {
    const found = new Map();
    for (const s of series) if (s.name && !s.unnamed && !found.has(s.name)) found.set(s.name, s);
    return [...found.values()];
  };

  // The key above a picture: buttons that hide and show a series.
  function keyOf(entry) {
    const {figure, data, plot} = entry;
    let key = figure.querySelector(':scope > .key');
    if (key) key.remove();
    const shown = named(data.option.series);
    if (shown.length < 2) return;
    key = document.createElement('div');
    key.className = 'key';
    key.setAttribute('role', 'group');
    key.setAttribute('aria-label', 'series shown');
    const style = getComputedStyle(plot);
    for (const s of shown) {
      const button = document.createElement('button');
      button.type = 'button';
      const i = data.option.series.filter(x => !x.unnamed || x.itemStyle).indexOf(s);
      const look = {...s.lineStyle, ...s.itemStyle};
      const token = look.color && look.color !== 'transparent' ? look.color : look.borderColor || `--c${i % 6}`;
      const swatch = document.createElement('i');
      const shade = token.startsWith('--') ? style.getPropertyValue(token).trim() : token;
      if (look.color === 'transparent') swatch.style.border = `1px dashed ${shade}`;
      else swatch.style.background = shade;
      if (look.opacity !== undefined && s.type !== 'scatter') swatch.style.opacity = look.opacity;
      if (s.type === 'line' && !s.areaStyle) swatch.className = 'stroke';
      button.append(swatch, s.name);
      button.setAttribute('aria-pressed', String(!entry.hidden.has(s.name)));
      button.addEventListener('click', () => {
        if (!entry.hidden.delete(s.name)) entry.hidden.add(s.name);
        entry.chart.dispatchAction({type: 'legendToggleSelect', name: s.name});
        button.setAttribute('aria-pressed', String(!entry.hidden.has(s.name)));
      });
      key.append(button);
    }
    figure.insertBefore(key, plot);
  }

  function render(entry) {
    const option = themed(entry.data, entry.plot, 0);
    option.legend.selected = Object.fromEntries([...entry.hidden].map(name => [name, false]));
    entry.chart.setOption(option, {notMerge: true});
    const svg = entry.plot.querySelector('svg');
    if (svg) svg.setAttribute('aria-hidden', 'true');
    entry.plot.setAttribute('role', 'img');
    entry.plot.setAttribute('aria-label', `${entry.data.title}. ${entry.data.says}`);
  }

  function save(name, type, content) {
    const link = document.createElement('a');
    const url = typeof content === 'string' && content.startsWith('data:') ? content
      : URL.createObjectURL(new Blob([content], {type}));
    link.href = url;
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    if (url.startsWith('blob:')) setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
  function csv(data) {
    const cell = x => {
      if (x === null || x === undefined) return '';
      let text = String(x);
      if (typeof x === 'string' && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
      return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [data.heads, ...data.rows].map(row => row.map(cell).join(',')).join('\n') + '\n';
  }
  // A picture for a file: with its title and key, on the page's background.
  function picture(entry, renderer) {
    const {plot, data} = entry;
    const room = document.createElement('div');
    const keys = named(data.option.series).length > 1 ? 24 : 0;
    const height = (data.option.height || 240) + 28 + keys;
    room.style.cssText = `position:absolute;left:-9999px;width:${plot.clientWidth}px;height:${height}px`;
    plot.append(room);
    const chart = echarts.init(room, null, {renderer, width: plot.clientWidth, height});
    const option = themed(data, plot, keys);
    const style = getComputedStyle(plot);
    option.backgroundColor = style.getPropertyValue('--page').trim() || '#fff';
    const move = x => ({...x, top: (x.top || 0) + 28 + (Array.isArray(data.option.grid) ? keys : 0)});
    option.grid = same(option.grid, move);
    option.legend.top = 26;
    option.title = [{text: data.title, left: 8, top: 4, textStyle: {fontSize: 14, color: style.getPropertyValue('--ink').trim()}, padding: 0},
      ...list(option.title).map(move)];
    option.legend.selected = Object.fromEntries([...entry.hidden].map(name => [name, false]));
    chart.setOption(option);
    const url = renderer === 'svg' ? chart.renderToSVGString() : chart.getDataURL({type: 'png', pixelRatio: 2});
    chart.dispose();
    room.remove();
    return url;
  }

  function tools(entry) {
    const {figure} = entry;
    if (figure.querySelector(':scope > .tools')) return;
    const bar = document.createElement('div');
    bar.className = 'tools';
    const add = (words, act) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = words;
      button.setAttribute('aria-label', `${entry.data.title}: save as ${words}`);
      button.addEventListener('click', act);
      bar.append(button);
    };
    const name = entry.data.name;
    if (entry.chart) {
      add('SVG', () => save(`${name}.svg`, 'image/svg+xml', picture(entry, 'svg')));
      add('PNG', () => save(`${name}.png`, 'image/png', picture(entry, 'canvas')));
    }
    add('CSV', () => save(`${name}.csv`, 'text/csv', csv(entry.data)));
    figure.querySelector('figcaption').after(bar);
  }

  const resize = typeof ResizeObserver === 'undefined' ? null : new ResizeObserver(changes => {
    for (const {target} of changes) {
      const entry = charts.get(target);
      if (!entry || !target.clientWidth || entry.width === target.clientWidth) continue;
      const crossed = (entry.width < 520) !== (target.clientWidth < 520);
      entry.width = target.clientWidth;
      entry.chart.resize();
      if (crossed) render(entry);
    }
  });

  function show(figure, data) {
    let plot = figure.querySelector(':scope > .plot');
    const known = plot && charts.get(plot);
    if (typeof echarts === 'undefined') {
      const twin = figure.querySelector('details.twin');
      if (twin) twin.open = true;
      tools({figure, data});
      return;
    }
    if (!plot) {
      plot = document.createElement('div');
      plot.className = 'plot';
      figure.querySelector('figcaption').after(plot);
    }
    const height = data.option.height || 240;
    plot.style.height = `${height}px`;
    if (known) {
      known.data = data;
      known.chart.resize();
      render(known);
      keyOf(known);
      return;
    }
    const chart = echarts.init(plot, null, {renderer: 'svg'});
    chart.on('click', point => { if (point.data?.open) location.assign(point.data.open); });
    const entry = {chart, data, figure, plot, hidden: new Set(), width: plot.clientWidth};
    charts.set(plot, entry);
    render(entry);
    keyOf(entry);
    tools(entry);
    if (resize) resize.observe(plot);
  }

  function draw(root = document) {
    for (const [plot, {chart}] of charts) {
      if (!plot.isConnected) {
        if (resize) resize.unobserve(plot);
        chart.dispose();
        charts.delete(plot);
      }
    }
    for (const figure of root.querySelectorAll('figure[data-figure]')) {
      const block = document.getElementById(`figure-${figure.dataset.figure}`);
      if (block) show(figure, JSON.parse(block.textContent));
    }
  }

  const again = () => {
    for (const entry of charts.values()) {
      render(entry);
      keyOf(entry);
    }
  };
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', again);
  addEventListener('beforeprint', () => {
    for (const entry of charts.values()) entry.chart.resize({width: Math.min(entry.plot.clientWidth, 680)});
  });
  addEventListener('afterprint', () => {
    for (const entry of charts.values()) entry.chart.resize({width: 'auto'});
  });
  globalThis.steelyardFigures = {draw, show, again, write};
  if (document.readyState === 'loading') addEventListener('DOMContentLoaded', () => draw());
  else draw();
})();
