//! The page of a report: one HTML file that needs nothing else. Check boxes and radio buttons switch groups and axes by style alone;
//! the script only reads out values under the pointer, and keeps the page of running runs current.

use super::curves::{AXES, Axis};
use super::escape::html;
use super::figures::{Figure, class, figures};
use super::summary::Report;
use super::svg::Style;
use super::table::{Table, legend, tables};
use crate::base::text::shell_quoted;

const STYLE: &str = include_str!("page.css");
const HOVER: &str = include_str!("hover.js");
const WATCH: &str = include_str!("watch.js");

/// By which a folder is known to have a report.
pub const MARK: &str = "<meta name=\"generator\" content=\"zotune report\">";

/// The page. With `version`, of a server that keeps it current: the number that it gives for this state of the runs.
pub fn page(report: &Report, version: Option<u64>) -> String {
    let groups = &report.groups.groups;
    let title = title(report);
    let (connect, live, again) = match version {
        Some(version) => (
            "; connect-src 'self'",
            format!("<script>const VERSION = \"{version}\";\n{WATCH}</script>"),
            "<noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>",
        ),
        None => ("", String::new(), ""),
    };
    let inputs: String = (0..AXES.len())
        .map(|i| {
            let checked = if i == 0 { " checked" } else { "" };
            format!("<input type=\"radio\" name=\"axis\" id=\"x{i}\"{checked}>")
        })
        .chain((0..groups.len()).map(|i| format!("<input type=\"checkbox\" id=\"on{i}\" checked>")))
        .collect();
    let axes: String =
        AXES.iter().enumerate().map(|(i, axis)| format!("<label for=\"x{i}\">{}</label>", axis.title())).collect();
    let chips = groups
        .iter()
        .enumerate()
        .map(|(i, group)| format!("<label for=\"on{i}\">{}{}</label>", Style::of(i).picture(), html(&group.label)));
    let notes: String = report.notes.iter().map(|note| format!("<li>{}</li>", html(note))).collect();
    let notes = if notes.is_empty() { notes } else { format!("<ul class=\"notes\">{notes}</ul>") };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n{MARK}\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'{connect}\">{again}\n\
         <title>{title}</title>\n<style>{STYLE}{}</style></head>\n<body>{inputs}\n\
         <header><h1>{title}</h1><div class=\"bar\" id=\"axes\"><span>x axis</span>{axes}</div>\
         <div class=\"bar\" id=\"groups\"><span>show</span>{}</div></header>\n\
         <main>{notes}{}{}{}{}</main>\n<script>{HOVER}</script>{live}</body></html>\n",
        switches(groups.len()),
        chips.collect::<String>(),
        pictures(report),
        tables(report).iter().map(as_html).collect::<String>()
            + &legend(report).iter().map(|said| format!("<p class=\"about\">{}</p>", html(said))).collect::<String>(),
        differences(report),
        commands(report),
    )
}

/// What the report is of: the task, the model and the number of runs.
pub fn title(report: &Report) -> String {
    let groups = &report.groups.groups;
    let inputs = &groups[0].runs[0].config.inputs;
    let data = inputs.data.as_ref().map(|data| data.display().to_string());
    let lab = groups[0].runs[0].config.lab.lab.as_ref().map(|_| "lab".to_string());
    let task = lab.or(inputs.task.clone()).or(data).unwrap_or_default();
    let runs: usize = groups.iter().map(|group| group.runs.len()).sum();
    let plural = if runs == 1 { "" } else { "s" };
    html(&format!("{task}, {}: {runs} run{plural}", inputs.model))
}

/// The rules by which the inputs switch axes and groups.
fn switches(groups: usize) -> String {
    let axes = (0..AXES.len()).map(|i| {
        format!(
            "#x{i}:checked~main .x{i}{{display:contents}}#x{i}:checked~header label[for=x{i}]{{background:#333;color:#fff}}\
                 #x{i}:focus-visible~header label[for=x{i}]{{outline:2px solid #0072B2}}"
        )
    });
    let groups = (0..groups).map(|i| {
        let class = class(i);
        format!(
            "#on{i}:not(:checked)~main .{class}{{display:none}}#on{i}:not(:checked)~header label[for=on{i}]{{opacity:.35}}\
                 #on{i}:focus-visible~header label[for=on{i}]{{outline:2px solid #0072B2}}"
        )
    });
    axes.chain(groups).collect()
}

fn pictures(report: &Report) -> String {
    let all = figures(report);
    let figure = |figure: &Figure| {
        format!(
            "<figure><h2>{}</h2>{}<figcaption>{}</figcaption></figure>",
            html(&figure.title),
            figure.inline,
            html(&figure.captions.join(" "))
        )
    };
    let of = |axis: Option<Axis>| all.iter().filter(|f| f.axis == axis).map(figure).collect::<String>();
    let by_axis =
        AXES.iter().enumerate().map(|(i, axis)| format!("<section class=\"by x{i}\">{}</section>", of(Some(*axis))));
    format!("<div class=\"figures\">{}{}</div>", by_axis.collect::<String>(), of(None))
}

fn as_html(table: &Table) -> String {
    let about = table.about.as_ref().map_or(String::new(), |about| format!("<p class=\"about\">{}</p>", html(about)));
    let heads: String = table.headers.iter().map(|head| format!("<th>{}</th>", html(head))).collect();
    let rows = table.rows.iter().enumerate().map(|(i, row)| {
        let cells = row.iter().enumerate().map(|(at, cell)| match at {
            0 => format!("<th scope=\"row\">{}{}</th>", Style::of(i).picture(), html(cell)),
            _ => format!("<td>{}</td>", html(cell)),
        });
        format!("<tr class=\"{}\">{}</tr>", class(i), cells.collect::<String>())
    });
    format!(
        "<h2>{}</h2>{about}<div class=\"wide\"><table><thead><tr>{heads}</tr></thead><tbody>{}</tbody></table></div>",
        table.title,
        rows.collect::<String>()
    )
}

/// The settings that differ, a line for each setting.
fn differences(report: &Report) -> String {
    if report.groups.differences.is_empty() {
        return String::new();
    }
    let heads = report.groups.groups.iter().map(|group| format!("<th>{}</th>", html(&group.label))).collect::<String>();
    let rows = report.groups.differences.iter().map(|(key, values)| {
        let cells: String = values.iter().map(|value| format!("<td>{}</td>", html(value))).collect();
        format!("<tr><th scope=\"row\"><code>{}</code></th>{cells}</tr>", html(key))
    });
    format!(
        "<h2>Settings that differ</h2><div class=\"wide\"><table><thead><tr><th>setting</th>{heads}</tr></thead>\
         <tbody>{}</tbody></table></div>",
        rows.collect::<String>()
    )
}

/// Every run with its folder, how far it is and the command that made it.
fn commands(report: &Report) -> String {
    let runs =
        report.groups.groups.iter().enumerate().flat_map(|(i, group)| group.runs.iter().map(move |run| (i, group, run)));
    let rows = runs.map(|(i, group, run)| {
        let words = run.record["command"].as_array().into_iter().flatten().filter_map(|word| word.as_str());
        let command: Vec<String> = words.map(|word| format!("<span>{}</span>", html(&shell_quoted(word)))).collect();
        let steps = (run.steps(), run.config.max_steps);
        let state = if run.scores.is_some() { "finished".into() } else { format!("step {} of {}", steps.0, steps.1) };
        format!(
            "<tr class=\"{}\"><th scope=\"row\">{}</th><td>{}</td><td>{state}</td><td>{}</td><td><code>{}</code></td></tr>",
            class(i),
            html(&group.label),
            run.config.seed,
            html(&run.folder.display().to_string()),
            command.join(" ")
        )
    });
    format!(
        "<h2>Runs and their commands</h2><div class=\"wide\"><table class=\"commands\"><thead><tr><th>method</th><th>seed</th>\
         <th>state</th><th>folder</th><th>command</th></tr></thead><tbody>{}</tbody></table></div>",
        rows.collect::<String>()
    )
}
