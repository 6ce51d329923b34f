for(const t of document.querySelectorAll('.all table')){const b=t.tBodies[0];
t.tHead.addEventListener('click',e=>{const h=e.target.closest('th');if(!h)return;
const i=[...h.parentNode.children].indexOf(h),up=h.getAttribute('aria-sort')!=='ascending';
for(const o of h.parentNode.children)o.removeAttribute('aria-sort');h.setAttribute('aria-sort',up?'ascending':'descending');
const k=r=>{const c=r.cells[i],v=c.dataset.v;return v===undefined?c.textContent:v===''?null:+v};
const less=(x,y)=>typeof x==='number'&&typeof y==='number'?x-y:
String(x).localeCompare(String(y),undefined,{numeric:true});
const rows=[...b.rows].map(r=>[k(r),r]);
rows.sort(([x],[y])=>x===null?1:y===null?-1:less(x,y)*(up?1:-1));
b.append(...rows.map(r=>r[1]))})}
const f=document.getElementById('filter');f&&f.addEventListener('input',()=>{
const w=f.value.toLowerCase().split(/\s+/).filter(x=>x);
for(const r of document.querySelectorAll('.all tbody tr')){const s=r.textContent.toLowerCase();
r.hidden=!w.every(x=>s.includes(x))}});
