import { compact } from "../../marks/numbers";
import { TokenText } from "../../marks/TokenText";
import type { ArrayInfo } from "../../wire/arrays";
import { whole } from "../common/format";
import type { ArraysData } from "./data";

interface Props {
  data: ArraysData;
  array: ArrayInfo;
  value: number;
}

/** One number of an array as what it stands for. */
export function Value({ data, array, value }: Props) {
  if (array.dtype === "token") return <TokenText text={data.tokenName(value)} />;
  return <>{array.dtype === "int" ? whole(value) : compact(value)}</>;
}
