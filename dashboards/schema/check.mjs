// Holds the dashboards against the types of @grafana/schema, of a new Grafana:
//
//     node check.mjs DASHBOARD...
//
// in a directory where the packages of package.json are installed. Each dashboard, and each part
// of it that has a type of its own, becomes a literal of that type in a TypeScript file, so that
// the compiler also finds names that do not exist. It exits with 1 when it finds something.
import fs from "node:fs";
import path from "node:path";
import ts from "typescript";

// Where the options of each kind of panel have their types, and the type of its field options.
const panels = {
  stat: { module: "stat/panelcfg/x/StatPanelCfg", custom: "{}" },
  table: { module: "table/panelcfg/x/TablePanelCfg", custom: "S.TableFieldOptions" },
  timeseries: { module: "timeseries/panelcfg/x/TimeSeriesPanelCfg", custom: "P.FieldConfig" },
  "state-timeline": { module: "statetimeline/panelcfg/x/StateTimelinePanelCfg", custom: "P.FieldConfig" },
};

// JSON has no enums: Plain is the type with their values instead.
const plain = `
type Plain<T> = T extends string ? \`\${T}\`
  : T extends number ? (\`\${T}\` extends \`\${infer N extends number}\` ? N : T)
  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
`;

const json = (value) => JSON.stringify(value, null, 2);

// overrides are the properties that overrides set, those under custom or the others.
function overrides(panel, custom) {
  return panel.fieldConfig.overrides.map((o) =>
    Object.fromEntries(
      o.properties
        // Of schema 37; Grafana makes cellOptions of it where it is newer.
        .filter((p) => p.id.startsWith("custom.") === custom && p.id !== "custom.displayMode")
        .map((p) => [p.id.replace(/^custom\./, ""), p.value]),
    ),
  );
}

// sources are the TypeScript files of a dashboard, by name.
function sources(name, dashboard) {
  const files = {};
  files[`${name}.ts`] = `import type * as S from "@grafana/schema";${plain}
// A link of a panel needs no more than title and url; an annotation has the fields of its data source.
type Link = Partial<S.DashboardLink>;
type Panel = Omit<S.Panel, "links"> & { links?: Link[] };
type Annotation = S.AnnotationQuery & { expr?: string; step?: string; tagKeys?: string; titleFormat?: string; textFormat?: string; useValueForTime?: boolean };
type Row = Omit<S.RowPanel, "panels"> & { panels: Panel[] };
type Dashboard = Omit<S.Dashboard, "panels" | "annotations"> & { panels: Array<Panel | Row>; annotations: { list: Annotation[] } };
export const dashboard: Plain<Dashboard> = ${json(dashboard)};\n`;
  for (const panel of dashboard.panels.flatMap((p) => [p, ...(p.panels ?? [])])) {
    if (panel.type === "row") continue;
    const kind = panels[panel.type];
    if (!kind) throw new Error(`${name}: panel ${panel.id} is a ${panel.type}, whose types check.mjs does not know`);
    const defaults = panel.fieldConfig.defaults;
    files[`${name}.panel${panel.id}.ts`] = `import type * as S from "@grafana/schema";
import type * as P from "@grafana/schema/dist/esm/raw/composable/${kind.module}_types.gen";${plain}
// ${panel.title}
export const options: Partial<Plain<P.Options>> = ${json(panel.options)};
export const fields: Plain<S.FieldConfig> = ${json(defaults)};
export const custom: Partial<Plain<${kind.custom}>> = ${json(defaults.custom ?? {})};
export const overrides: Plain<S.FieldConfig>[] = ${json(overrides(panel, false))};
export const customs: Partial<Plain<${kind.custom}>>[] = ${json(overrides(panel, true))};\n`;
  }
  return files;
}

const files = {};
for (const file of process.argv.slice(2)) {
  Object.assign(files, sources(path.basename(file, ".json"), JSON.parse(fs.readFileSync(file, "utf8"))));
}
for (const [name, text] of Object.entries(files)) fs.writeFileSync(name, text);

const program = ts.createProgram(Object.keys(files), {
  strict: true,
  noEmit: true,
  skipLibCheck: true,
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  types: [],
});
const found = ts.getPreEmitDiagnostics(program);
if (found.length > 0) {
  const host = { getCanonicalFileName: (f) => f, getCurrentDirectory: () => process.cwd(), getNewLine: () => "\n" };
  console.error(ts.formatDiagnostics(found, host));
  process.exit(1);
}
console.log(`${process.argv.length - 2} dashboards agree with @grafana/schema, ${Object.keys(files).length} files`);
