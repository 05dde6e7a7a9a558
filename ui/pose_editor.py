"""People as joints to drag, over the photo they were seen in: move, remove and add joints and people.

Its `release` event carries the people, 18 joints each as [x, y, how surely] in pixels of the picture; `submit` says
that they are to be left as they were. How maps are drawn is not known here.
"""

import json
from collections.abc import Sequence
from functools import partial
from html import escape

from engine.controls.skeletons import COLOURS, JOINTS, LIMBS
from ui.cards import Plain

# Everything is drawn anew after each change; the listeners are on the part, and the picture's load event starts.
DRAG = """
const JOINTS = NAMES, LIMBS = TREE, COLOURS = HUES, SURE = 0.5;
const find = selector => element.querySelector(selector);
let people = [], stands, width, height, chosen = null, held = null, undos = [];

element.addEventListener('load', event => {
    if (!event.target.matches('.start')) return;
    ({people, stands, width, height} = JSON.parse(find('.pose').dataset.scene));
    find('.paper').style.setProperty('--shape', width / height);
    chosen = people.length ? {person: 0, joint: null} : null;
    undos = [];
    draw();
}, true);
const there = (person, joint) => people[person][joint][2] >= SURE;
const draw = () => {
    const unit = width / find('svg').getBoundingClientRect().width || 1;
    const focused = document.activeElement?.closest?.('circle')?.dataset;
    const lines = people.map((joints, person) => LIMBS.map(([from, to], i) => there(person, from) && there(person, to)
        ? `<line data-person="${person}" x1="${joints[from][0]}" y1="${joints[from][1]}" x2="${joints[to][0]}"
            y2="${joints[to][1]}" stroke="${COLOURS[i]}" stroke-width="6"/>` : '').join('')).join('');
    const points = people.map((joints, person) => joints.map(([x, y], joint) => there(person, joint)
        ? `<circle data-person="${person}" data-joint="${joint}" cx="${x}" cy="${y}" r="${7 * unit}" tabindex="0"
            fill="${COLOURS[joint]}" class="${chosen?.person === person && chosen.joint === joint ? 'held' : ''}">
            <title>${JOINTS[joint]}</title></circle>` : '').join('')).join('');
    find('svg').innerHTML = lines + points;
    if (focused) find(`circle[data-person="${focused.person}"][data-joint="${focused.joint}"]`)?.focus();
    const missing = chosen ? JOINTS.map((name, joint) => there(chosen.person, joint) ? ''
        : `<option value="${joint}">${name}</option>`).join('') : '';
    find('[name="missing"]').innerHTML = '<option selected disabled>Add a joint …</option>' + missing;
    find('[name="missing"]').disabled = !missing;
    find('[data-do="joint"]').disabled = chosen?.joint == null;
    find('[data-do="person"]').disabled = !chosen;
    find('[data-do="undo"]').disabled = !undos.length;
    const who = people.length > 1 && chosen ? `person ${chosen.person + 1}` : '';
    find('.ink').textContent = chosen ? [who, JOINTS[chosen.joint]].filter(Boolean).join(', ') : '';
};
const change = how => {
    undos.push(JSON.stringify({people, chosen}));
    how();
    draw();
};
const within = (value, most) => Math.round(100 * Math.min(Math.max(value, 0), most)) / 100;
const move = (from, dx, dy) => {
    const {person, joint} = chosen;
    people[person] = from.map(([x, y, sure], i) => joint == null ? [x + dx, y + dy, sure]
        : i === joint ? [within(x + dx, width - 1), within(y + dy, height - 1), sure] : [x, y, sure]);
};
const remove = () => chosen?.joint != null && change(() => {
    people[chosen.person][chosen.joint][2] = 0;
    chosen.joint = null;
});
const add = joint => change(() => {
    const [near] = LIMBS.flatMap(([from, to]) => to === joint ? [from] : from === joint ? [to] : [])
        .filter(other => there(chosen.person, other));
    const [x, y] = people[chosen.person][near ?? joint], [from, to] = [stands[near ?? joint], stands[joint]];
    people[chosen.person][joint] = [within(x + to[0] - from[0], width - 1), within(y + to[1] - from[1], height - 1), 1];
    chosen.joint = joint;
});
const acts = {
    undo: () => { if (undos.length) { ({people, chosen} = JSON.parse(undos.pop())); draw(); } },
    joint: remove,
    person: () => change(() => {
        people.splice(chosen.person, 1);
        chosen = people.length ? {person: 0, joint: null} : null;
    }),
    another: () => change(() => {
        const aside = [0, 0.25, -0.25, 0.38, -0.38][people.length % 5] * width;
        people.push(stands.map(([x, y]) => [within(x + aside, width - 1), y, 1]));
        chosen = {person: people.length - 1, joint: null};
    }),
    done: () => trigger('release', {people}),
    cancel: () => trigger('submit'),
};

element.addEventListener('pointerdown', event => {
    const {person, joint} = event.target.dataset;
    if (person === undefined || event.button) return;
    event.preventDefault();
    chosen = {person: +person, joint: joint === undefined ? null : +joint};
    const box = find('svg').getBoundingClientRect();
    held = {x: event.clientX, y: event.clientY, scale: width / box.width, from: people[chosen.person],
        before: JSON.stringify({people, chosen})};
    element.setPointerCapture(event.pointerId);
    draw();
    if (chosen.joint != null) find('circle.held').focus({preventScroll: true});
});
element.addEventListener('pointermove', event => {
    if (!held) return;
    held.moved = true;
    move(held.from, (event.clientX - held.x) * held.scale, (event.clientY - held.y) * held.scale);
    draw();
});
for (const end of ['pointerup', 'pointercancel']) element.addEventListener(end, () => {
    if (held?.moved) undos.push(held.before);
    held = null;
    if (find('svg')) draw();
});
element.addEventListener('focusin', event => {
    const {person, joint} = event.target.dataset;
    if (joint === undefined || held || chosen?.person === +person && chosen.joint === +joint) return;
    chosen = {person: +person, joint: +joint};
    draw();
});
element.addEventListener('click', event => acts[event.target.closest('button')?.dataset.do]?.());
element.addEventListener('change', event => { if (event.target.name === 'missing') add(+event.target.value); });
element.addEventListener('keydown', event => {
    const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    const far = Math.max(width, height) / (event.shiftKey ? 20 : 200), onJoint = event.target.closest?.('circle');
    if ((event.ctrlKey || event.metaKey) && event.key === 'z') acts.undo();
    else if (onJoint && step) change(() => move(people[chosen.person], step[0] * far, step[1] * far));
    else if (onJoint && ['Delete', 'Backspace'].includes(event.key)) remove();
    else return;
    event.preventDefault();
});
"""
for word, value in {"NAMES": JOINTS, "TREE": LIMBS, "HUES": COLOURS}.items():
    DRAG = DRAG.replace(f"= {word}", f"= {json.dumps(value)}")

PoseEditor = partial(Plain, js_on_load=DRAG)


def pose_view(
    picture_url: str,
    people: Sequence[Sequence[Sequence[float]]],
    stands: Sequence[Sequence[float]],
    width: int,
    height: int,
) -> str:
    """The HTML of the part: a picture of this size, the people in it, and the joints of one to be added."""
    scene = json.dumps({"people": people, "stands": stands, "width": width, "height": height})
    return (
        f'<div class="pose" data-scene="{escape(scene)}"><div class="tools">'
        '<button type="button" data-do="another">Add a person</button>'
        '<button type="button" data-do="person">Remove the person</button>'
        '<select name="missing" aria-label="Add a joint"></select>'
        '<button type="button" data-do="joint">Remove the joint</button>'
        '<button type="button" data-do="undo">Undo</button></div>'
        f'<div class="paper"><img class="start" src="{picture_url}" alt="" draggable="false">'
        f'<svg viewBox="0 0 {width} {height}" role="group" aria-label="Joints"></svg></div>'
        '<div class="tools end"><b class="ink"></b><button type="button" data-do="cancel">Cancel</button>'
        '<button type="button" class="main" data-do="done">Done</button></div></div>'
    )
