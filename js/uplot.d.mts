/** The text of uPlot's module, made smaller. */
export function lean(uplot: string): string;
