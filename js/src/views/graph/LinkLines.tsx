import type { Link } from "./data";
import type { Layout } from "./layout";
import type { GraphState } from "./state";

/** All links, faint while one node's are looked at, which stand out. */
export function LinkLines({ state, layout }: { state: GraphState; layout: Layout }) {
  const { links } = state.drawn.value;
  const most = Math.max(1e-9, ...links.map(({ influence }) => influence));
  const at = state.pointed.value >= 0 ? state.pointed.value : state.chosen.value;
  const own = at < 0 ? [] : links.filter(({ source, target }) => source === at || target === at);
  return (
    <g class="ll-links">
      <Lines links={links} layout={layout} most={most} faint={own.length > 0} />
      {own.length > 0 && <Lines links={own} layout={layout} most={most} faint={false} />}
    </g>
  );
}

interface Props {
  links: readonly Link[];
  layout: Layout;
  most: number;
  faint: boolean;
}

function Lines({ links, layout, most, faint }: Props) {
  return (
    <g class={faint ? "ll-faint" : undefined}>
      {links.map((link) => {
        const path = pathOf(link, layout);
        const part = Math.sqrt(link.influence / most);
        return (
          path && (
            <path
              key={link.index}
              class={link.weight < 0 ? "ll-link ll-takes" : "ll-link ll-adds"}
              d={path}
              stroke-width={0.6 + 3 * part}
              stroke-opacity={0.25 + 0.6 * part}
            />
          )
        );
      })}
    </g>
  );
}

function pathOf({ source, target }: Link, { places }: Layout): string {
  const [from, to] = [places.get(source), places.get(target)];
  if (!from || !to) return "";
  const middle = (from.y + to.y) / 2;
  return `M${from.x} ${from.y}C${from.x} ${middle} ${to.x} ${middle} ${to.x} ${to.y}`;
}
