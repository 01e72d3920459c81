declare module "*.svg" {
  /** A data URL, which esbuild puts in the place of the file. */
  const url: string;
  export default url;
}
