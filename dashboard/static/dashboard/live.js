/*
 * Keeps an open admin list fresh: fetches the same page and puts its rows and totals in place.
 *
 * It waits while the tab is hidden, while rows are checked, an action is chosen or text is being
 * selected, and while the operator has paused it. A failure is told, and tried again more slowly.
 */
'use strict';
{
    const LONGEST_WAIT = 30000;
    const TIMEOUT = 10000;
    // Replaced whole: nothing in them takes focus for long, and Django's own script does not hold them.
    const REPLACED = ['#changelist-form .paginator', '#changelist-search .small.quiet'];

    let boxes = [];

    // Django's script keeps the checkboxes it is started with. It is given a list that follows the rows.
    const stockActions = window.Actions;
    if (stockActions) {
        window.Actions = function(checkboxes, options) {
            boxes = Array.from(checkboxes);
            stockActions(boxes, options);
        };
    }

    function keyOf(row) {
        const marked = row.querySelector('[data-row]');
        return marked ? marked.dataset.row : row.textContent;
    }

    /* Give a row on the page the cells of its new self; the checkbox and unchanged cells stay as they are. */
    function updateRow(row, fresh) {
        Array.from(fresh.cells).forEach((cell, index) => {
            const old = row.cells[index];
            if (!cell.classList.contains('action-checkbox') && old.innerHTML !== cell.innerHTML) {
                old.innerHTML = cell.innerHTML;
            }
        });
    }

    function updateRows(body, freshBody) {
        const known = new Map(Array.from(body.rows, (row) => [keyOf(row), row]));
        const rows = Array.from(freshBody ? freshBody.rows : [], (fresh) => {
            const row = known.get(keyOf(fresh));
            if (!row || row.cells.length !== fresh.cells.length) {
                return document.importNode(fresh, true);
            }
            updateRow(row, fresh);
            return row;
        });
        const kept = new Set(rows);
        Array.from(body.rows).forEach((row) => kept.has(row) || row.remove());
        // Only what is out of place is moved: a moved element loses its focus.
        rows.forEach((row, index) => {
            if (body.rows[index] !== row) {
                body.insertBefore(row, body.rows[index] || null);
            }
        });
        boxes.splice(0, boxes.length, ...body.querySelectorAll('input.action-select'));
    }

    function updateCounter(fresh) {
        const counter = document.querySelector('.action-counter');
        const freshCounter = fresh.querySelector('.action-counter');
        if (counter && freshCounter) {
            counter.dataset.actionsIcnt = freshCounter.dataset.actionsIcnt;
            counter.textContent = freshCounter.textContent;
        }
        ['.actions .all', '.actions .question a'].forEach((selector) => {
            const shown = document.querySelector(selector);
            const now = fresh.querySelector(selector);
            if (shown && now) {
                shown.textContent = now.textContent;
            }
        });
    }

    function makeScrollable() {
        const results = document.querySelector('#changelist .results');
        if (results) {
            results.tabIndex = 0;
            results.setAttribute('role', 'region');
            results.setAttribute('aria-label', document.querySelector('#content h1')?.textContent || 'Rows');
            results.setAttribute('aria-live', 'off');
        }
    }

    function updateTable(fresh) {
        const body = document.querySelector('#result_list tbody');
        const freshForm = fresh.getElementById('changelist-form');
        if (body) {
            updateRows(body, fresh.querySelector('#result_list tbody'));
            updateCounter(fresh);
        } else if (fresh.querySelector('#result_list')) {
            // The list was empty when it was opened: there is no table to fill yet.
            const form = document.getElementById('changelist-form');
            const token = form.querySelector('[name=csrfmiddlewaretoken]');
            form.replaceChildren(...Array.from(freshForm.children, (child) => document.importNode(child, true)));
            form.querySelector('[name=csrfmiddlewaretoken]').replaceWith(token);
            const found = form.querySelectorAll('input.action-select');
            if (found.length && window.Actions) {
                window.Actions(found);
            }
            makeScrollable();
        }
    }

    function updatePage(fresh) {
        const focused = document.activeElement;
        updateTable(fresh);
        document.querySelectorAll('[data-live]').forEach((shown) => {
            const now = fresh.getElementById(shown.id);
            if (now && now.innerHTML !== shown.innerHTML) {
                shown.innerHTML = now.innerHTML;
            }
        });
        REPLACED.forEach((selector) => {
            const shown = document.querySelector(selector);
            const now = fresh.querySelector(selector);
            if (shown && now && now.innerHTML !== shown.innerHTML && !shown.contains(focused)) {
                shown.innerHTML = now.innerHTML;
            }
        });
        if (focused && focused !== document.body && !focused.isConnected) {
            document.querySelector('#changelist .results')?.focus({preventScroll: true});
        }
    }

    /* Why the page must not change under the operator's hands right now; empty if it may. */
    function occupied() {
        if (document.querySelector('#result_list input.action-select:checked, #action-toggle:checked')) {
            return 'Waiting: rows are selected.';
        }
        if (document.querySelector('#changelist-form select[name=action]')?.value) {
            return 'Waiting: an action is chosen.';
        }
        const selection = document.getSelection();
        if (selection && !selection.isCollapsed && document.getElementById('content').contains(selection.anchorNode)) {
            return 'Waiting: text is selected.';
        }
        return '';
    }

    async function fetchPage() {
        const abort = new AbortController();
        const timer = setTimeout(() => abort.abort(), TIMEOUT);
        try {
            const response = await fetch(location.href, {
                headers: {'X-Dashboard-Refresh': '1'}, cache: 'no-store', signal: abort.signal
            });
            if (!response.ok) {
                throw new Error(`the server answered ${response.status}`);
            }
            const page = new DOMParser().parseFromString(await response.text(), 'text/html');
            if (!page.getElementById('changelist')) {
                throw new Error('you are signed out, or may not see this page any more');
            }
            return page;
        } catch (error) {
            if (error.name === 'AbortError') {
                throw new Error(`no answer within ${TIMEOUT / 1000} s`);
            }
            throw error instanceof TypeError ? new Error('the server cannot be reached') : error;
        } finally {
            clearTimeout(timer);
        }
    }

    function start(bar) {
        const interval = Number(bar.dataset.interval) * 1000;
        makeScrollable();
        if (!(interval > 0)) {
            return;
        }
        const status = bar.querySelector('[data-ops-status]');
        const toggle = bar.querySelector('[data-ops-toggle]');
        let paused = false;
        let failures = 0;
        let timer = null;
        let running = false;

        function say(text) {
            // A live region speaks whenever it changes, so it changes only when there is news.
            if (status.textContent !== text) {
                status.textContent = text;
            }
        }

        function plan() {
            clearTimeout(timer);
            if (!paused && !document.hidden) {
                timer = setTimeout(refresh, Math.min(interval * 2 ** failures, Math.max(LONGEST_WAIT, interval)));
            }
        }

        async function refresh() {
            const reason = occupied();
            if (reason) {
                say(reason);
            } else if (!running) {
                running = true;
                try {
                    const page = await fetchPage();
                    failures = 0;
                    if (!paused && !occupied()) {
                        updatePage(page);
                        say('');
                    }
                } catch (error) {
                    failures = Math.min(failures + 1, 10);
                    say(`Not updated: ${error.message}. Trying again.`);
                } finally {
                    running = false;
                }
            }
            plan();
        }

        toggle.hidden = false;
        toggle.addEventListener('click', () => {
            paused = !paused;
            toggle.textContent = paused ? 'Resume updates' : 'Pause updates';
            say(paused ? 'Paused.' : '');
            if (paused) {
                clearTimeout(timer);
            } else {
                refresh();
            }
        });
        document.addEventListener('visibilitychange', () => {
            clearTimeout(timer);
            if (!document.hidden && !paused) {
                refresh();
            }
        });
        plan();
    }

    /* A filter menu closes as menus do: on Escape, which gives the focus back, and on a click elsewhere. */
    function closeMenus(event) {
        document.querySelectorAll('.ops-filter[open]').forEach((menu) => {
            if (event.type === 'click' ? !menu.contains(event.target) : event.key === 'Escape') {
                menu.open = false;
                if (menu.contains(document.activeElement)) {
                    menu.querySelector('summary').focus();
                }
            }
        });
    }

    document.addEventListener('click', closeMenus);
    document.addEventListener('keydown', closeMenus);
    document.addEventListener('DOMContentLoaded', () => {
        const bar = document.querySelector('[data-ops-live]');
        if (bar) {
            start(bar);
        }
    });
}
