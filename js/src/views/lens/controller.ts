import { effect } from "@preact/signals";
import { GridPainter } from "../../marks/grid";
import { headHeight } from "../../marks/gridheads";
import { STRIP } from "../../marks/gridscores";
import type { Scores } from "../../marks/gridtypes";
import type { Surface } from "../../marks/painter";
import {
  type Cell,
  cellAt,
  clamp,
  type GridShape,
  MAX_CELL,
  MIN_CELL,
  type Place,
  placeOf,
} from "../../marks/windowing";
import {
  BESIDE_FROM,
  CanvasGrid,
  fittingWidth,
  type GridElements,
  ROW_HEIGHT,
} from "../common/canvasgrid";
import { DifferenceData } from "./difference";
import { keyAction } from "./keyboard";
import { guesses, isWorse } from "./scores";
import { OtherState, type ViewState } from "./state";

/** Columns are as wide as there is room for, between these. */
const LEAST = 72;
const MOST = 150;

/**
 * Of a uniform guess: worse values stand at the edge beside the rows. A lens that is a hundred nats
 * off would flatten the curves that are worth a look.
 */
const BEYOND = 2;

/** Pixels between two tables, with the frame of the second. */
const BETWEEN = 28;

/** The lens table: what is drawn of it, and what its gestures mean. */
export class TableController extends CanvasGrid {
  readonly #painter: GridPainter;

  constructor(
    private readonly state: ViewState,
    elements: GridElements,
  ) {
    super(elements);
    this.#painter = new GridPainter(elements.canvas);
    this.begin();
    this.stop.push(
      effect(() => {
        state.columnWidth.value = this.shape().cellWidth;
      }),
    );
  }

  /** Of this table: two lenses share the room, but where they stand under each other. */
  #room(): number {
    const room = this.room.value;
    const halved = this.state.beside && this.elements.root.clientWidth > BESIDE_FROM;
    return halved ? Math.floor((room - BETWEEN) / 2) : room;
  }

  override shape(): GridShape {
    const { traits } = this.state.session;
    const data = this.state.data.value;
    const transposed = traits.transposed.value;
    const [points, positions] = [data?.points ?? 0, data?.positions ?? 0];
    const strip = this.scored ? STRIP : 0;
    const headWidth = transposed ? 148 : 76 + strip;
    const own = traits.cell_width.value;
    const columns = transposed ? points : positions;
    const fitting = fittingWidth(this.#room() - headWidth, columns, LEAST, MOST);
    const cellWidth = own > 0 ? clamp(own, MIN_CELL, MAX_CELL) : fitting;
    return {
      points,
      positions,
      transposed,
      cellWidth,
      rowHeight: ROW_HEIGHT,
      headWidth,
      headHeight: headHeight(cellWidth) + (transposed ? strip : 0),
    };
  }

  /** Whether curves stand beside the rows; of two tables the first has them. */
  private get scored(): boolean {
    const { state } = this;
    return state.scores.value.length > 0 && !(state instanceof OtherState);
  }

  #scores(): Scores | undefined {
    const { state } = this;
    const data = state.data.peek();
    if (!this.scored || !data) return undefined;
    const known = state.scores.peek();
    const uniform = guesses(known);
    const all = known.flatMap(({ values }) => values.filter((value) => !Number.isNaN(value)));
    const end = uniform.length > 0 ? BEYOND * Math.max(...uniform) : Number.POSITIVE_INFINITY;
    return {
      uniform,
      most: Math.min(1.1 * Math.max(1e-9, ...uniform, ...all), end),
      lines: known.map(({ values, style }, i) => ({
        values,
        ...style,
        shown: i === state.through,
      })),
    };
  }

  protected override selection(): Cell {
    return this.state.selected.value;
  }

  protected override watch(): void {
    const { state } = this;
    const { traits, version } = state.session;
    state.data.value;
    version.value;
    state.scale.value;
    state.selected.value;
    state.hover.value;
    traits.pins.value;
    state.trajectories.value;
    state.scores.value;
  }

  protected override paint(surface: Omit<Surface, "shape" | "palette">): void {
    const { state } = this;
    const data = state.data.peek();
    if (!data) return;
    const { traits } = state.session;
    const scores = state.scores.peek();
    const compared = data instanceof DifferenceData;
    // A pin has a line through each lens that is shown, and one mark.
    const lines = state.trajectories.peek();
    const pins = lines.filter(({ pin }, i) => lines.findIndex((line) => line.pin === pin) === i);
    this.#painter.draw({
      ...surface,
      shape: this.shape(),
      palette: state.palette.peek(),
      source: {
        ...data.source(traits.color.peek(), traits.tracked.peek()),
        doubtful: (point) => !compared && isWorse(scores[data.lens], point),
      },
      scores: this.#scores(),
      scale: state.scale.peek(),
      selected: state.selected.peek(),
      hover: state.hover.peek()?.cell ?? null,
      pins: pins.map(({ pin, style }) => ({ ...pin, color: style.color })),
      focused: this.focused,
    });
  }

  protected override widen(width: number): void {
    this.state.session.write({ cell_width: width }, "soon");
  }

  protected override scrolled(): void {
    const { hover, popup } = this.state;
    hover.value = null;
    const open = popup.peek();
    if (open) popup.value = this.anchor(open.cell);
  }

  protected override over(cell: Cell | null): void {
    const old = this.state.hover.peek();
    if (cell?.point === old?.cell.point && cell?.position === old?.cell.position) return;
    this.state.hover.value = cell ? this.anchor(cell) : null;
  }

  protected override left(): void {
    this.state.hover.value = null;
  }

  protected override clicked(place: Place): void {
    const shape = this.shape();
    const chosen = placeOf(shape, this.state.selected.peek());
    const row = place.row < 0 ? chosen.row : place.row;
    const column = place.column < 0 ? chosen.column : place.column;
    this.#choose(cellAt(shape, row, column), place.area === "cell");
  }

  #choose(cell: Cell, open: boolean): void {
    this.state.select(cell, "now");
    this.state.hover.value = null;
    this.state.popup.value = open ? this.anchor(cell) : null;
  }

  protected override key(event: KeyboardEvent): void {
    const { state } = this;
    const action = keyAction(event, this.shape(), state.selected.peek(), this.page());
    if (!action || !state.data.peek()) return;
    if (action.kind === "close" && !state.popup.peek() && !state.hover.peek()) return;
    if (action.kind === "branch" && !state.branch) return;
    event.preventDefault();
    event.stopPropagation();
    const { point, position } = state.selected.peek();
    if (action.kind === "move") {
      state.popup.value = null;
      state.select(action.cell);
    } else if (action.kind === "open") this.#choose({ point, position }, true);
    else if (action.kind === "pin") {
      const id = state.data.peek()?.topId(point, position) ?? -1;
      if (id >= 0) state.togglePin({ position, id });
    } else if (action.kind === "branch") {
      const id = state.data.peek()?.topId(point, position) ?? -1;
      if (id >= 0 && !state.noBranch({ point, position }, id))
        state.branch?.({ point, position }, id);
    } else if (action.kind === "help") state.help.value = !state.help.peek();
    else {
      state.popup.value = null;
      state.hover.value = null;
    }
  }
}
