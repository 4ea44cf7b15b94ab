//! Line charts and stacked bars as SVG. A text is as wide as in DejaVu Sans, wider than most fonts, so nothing is cut elsewhere.

use super::axis::{labelled_ticks, range, round_ticks, scaled, tick_label};
use super::escape::{html, shortened};

/// The width of every figure, in pixels.
pub const WIDTH: f64 = 640.0;

const INK: &str = "#333";
const LEFT: f64 = 70.0;
const MARGIN: f64 = 18.0;
const PLOT: f64 = 300.0;
const FONT: f64 = 13.0;
const LINE: f64 = 21.0;

/// Okabe and Ito's colours, which colour-blind readers tell apart; without their yellow, which is pale on white.
pub const COLOURS: [&str; 7] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];

const DASHES: [&str; 4] = ["", "9 4", "3 3", "12 4 3 4"];

/// How a series looks. Colour and dash make 28 different ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Style {
    /// A colour of [`COLOURS`].
    pub colour: &'static str,
    dash: &'static str,
    marker: usize,
}

impl Style {
    /// Of the series at this place in a list.
    pub fn of(at: usize) -> Self {
        let marker = at % DASHES.len();
        Style { colour: COLOURS[at % COLOURS.len()], dash: DASHES[marker], marker }
    }

    fn stroke(&self, width: f64) -> String {
        let dash = if self.dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{}\"", self.dash) };
        format!("fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"{dash}", self.colour)
    }

    /// A marker around a point.
    fn at(&self, x: f64, y: f64) -> String {
        let fill = format!("fill=\"{}\"", self.colour);
        match self.marker {
            0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" {fill}/>"),
            1 => format!("<rect x=\"{:.1}\" y=\"{:.1}\" width=\"6.4\" height=\"6.4\" {fill}/>", x - 3.2, y - 3.2),
            2 => format!("<path d=\"M{x:.1} {:.1}l4 7h-8z\" {fill}/>", y - 4.6),
            _ => format!("<path d=\"M{x:.1} {:.1}l4.5 4.5 -4.5 4.5 -4.5 -4.5z\" {fill}/>", y - 4.5),
        }
    }

    /// A short line with its marker, as a legend shows it.
    fn sample(&self, x: f64, y: f64, markers: bool) -> String {
        let line = format!("<path d=\"M{x:.1} {y:.1}h28\" {}/>", self.stroke(2.2));
        if markers { line + &self.at(x + 14.0, y) } else { line }
    }

    /// The same as a picture of its own.
    pub fn picture(&self) -> String {
        format!("<svg width=\"30\" height=\"12\" aria-hidden=\"true\">{}</svg>", self.sample(1.0, 6.0, true))
    }
}

/// A curve, perhaps with a band.
pub struct Series {
    /// Its name in the legend.
    pub label: String,
    /// Its class, by which a page finds it.
    pub class: String,
    /// Its colour and dash.
    pub style: Style,
    /// Its points.
    pub line: Vec<(f64, f64)>,
    /// The least and the largest value at every point of the line, or nothing.
    pub band: Vec<(f64, f64)>,
    /// The same curve before it was smoothed, drawn thin; or nothing.
    pub thin: Vec<(f64, f64)>,
    /// Whether its points are marked.
    pub markers: bool,
}

/// A line chart.
pub struct Chart {
    /// Above the plot.
    pub title: String,
    /// The name and the unit of the x axis.
    pub x_label: String,
    /// The name and the unit of the y axis.
    pub y_label: String,
    /// Where the x axis ends; it begins at 0.
    pub x_max: f64,
    /// The values of x that are labelled.
    pub x_ticks: Vec<f64>,
    /// The curves.
    pub series: Vec<Series>,
    /// Values from here on are drawn at the top edge.
    pub cut: Option<f64>,
    /// Whether the y axis is logarithmic; then all values are above 0.
    pub log: bool,
    /// Whether the picture has its own title and legend.
    pub alone: bool,
    /// Lines of text below the legend.
    pub captions: Vec<String>,
}

impl Chart {
    /// The chart as an `<svg>` element.
    pub fn svg(&self) -> String {
        let shown = |y: f64| self.cut.map_or(y, |cut| y.min(cut));
        let values = self.series.iter().flat_map(|s| {
            s.line.iter().chain(&s.thin).map(|p| p.1).chain(s.band.iter().flat_map(|&(low, high)| [low, high]))
        });
        let (low, high) = range(values.map(|y| scaled(shown(y), self.log)), self.log);
        let top = if self.alone { 40.0 } else { 14.0 };
        let x_max = if self.x_max > 0.0 { self.x_max } else { 1.0 };
        let frame = Frame { top, x_max, low, high, log: self.log };
        let (right, bottom) = (Frame::RIGHT, top + PLOT);
        let mut body = String::new();
        if self.alone {
            body += &text(LEFT, 25.0, "start", 16.0, &shortened(&self.title, 62));
        }
        for (tick, label) in labelled_ticks(low, high, self.log) {
            let at = frame.y(tick);
            body += &format!("<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#e4e4e4\"/>");
            body += &text(LEFT - 8.0, at + 4.5, "end", FONT, &label);
        }
        for tick in &self.x_ticks {
            let at = frame.x(*tick);
            body += &format!("<path d=\"M{at:.1} {bottom}v5\" stroke=\"{INK}\"/>");
            body += &text(at, bottom + 20.0, "middle", FONT, &tick_label(*tick, x_max));
        }
        body += &format!("<path d=\"M{LEFT} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"{INK}\"/>");
        body += &text((LEFT + right) / 2.0, bottom + 42.0, "middle", FONT, &self.x_label);
        let middle = (top + bottom) / 2.0;
        body += &format!(
            "<text transform=\"translate(17 {middle}) rotate(-90)\" text-anchor=\"middle\" font-size=\"{FONT}\" fill=\"{INK}\">{}</text>",
            html(&self.y_label)
        );
        self.series.iter().for_each(|series| body += &series.draw(&frame));
        let mut below = bottom + 62.0;
        if self.alone {
            let marked = self.series.iter().map(|s| (s.label.as_str(), s.style, s.markers));
            below = legend(
                &mut body,
                below,
                marked.map(|(label, style, markers)| {
                    (label, Box::new(move |x: f64, y: f64| style.sample(x, y, markers)) as Sample)
                }),
            );
            for caption in self.captions.iter().cloned().chain(self.cut.map(cut_text)) {
                body += &text(LEFT, below, "start", 12.0, &shortened(&caption, 86));
                below += LINE - 3.0;
            }
        } else {
            below -= 12.0;
        }
        let cut = self.cut.map_or(String::new(), |cut| format!(" data-cut=\"{cut}\""));
        let log = if self.log { " data-log=\"1\"" } else { "" };
        let data = format!(
            "{log} data-frame=\"{LEFT} {right} {top} {bottom}\" data-x=\"{x_max}\" data-y=\"{low} {high}\" data-names=\"{}\"{cut}",
            html(&format!("{}|{}", self.x_label, self.y_label))
        );
        picture(below, &format!("{}: {} over {}", self.title, self.y_label, self.x_label), &data, &body)
    }
}

/// What the legend says of a cut axis.
pub fn cut_text(cut: f64) -> String {
    format!("top edge: losses of {cut:.1} or more")
}

/// Where values lie in the picture. What is above the top edge is drawn there.
struct Frame {
    top: f64,
    x_max: f64,
    /// Of scaled values, as `high`.
    low: f64,
    high: f64,
    log: bool,
}

impl Frame {
    const RIGHT: f64 = WIDTH - MARGIN;

    fn x(&self, value: f64) -> f64 {
        LEFT + value / self.x_max * (Frame::RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        self.top + PLOT - (scaled(value, self.log).min(self.high) - self.low) / (self.high - self.low) * PLOT
    }

    fn points(&self, all: impl Iterator<Item = (f64, f64)>) -> String {
        all.map(|(x, y)| format!("{:.1},{:.1}", self.x(x), self.y(y))).collect::<Vec<_>>().join(" ")
    }
}

impl Series {
    /// The curve in pixels. Its band comes first: the line lies over it.
    fn draw(&self, frame: &Frame) -> String {
        let Series { label, class, style, line, band, thin, markers } = self;
        let mut body = format!("<g class=\"series {class}\" data-label=\"{}\">", html(label));
        if !band.is_empty() {
            let xs = || line.iter().map(|point| point.0);
            let around = xs().zip(band.iter().map(|b| b.1)).chain(xs().zip(band.iter().map(|b| b.0)).rev());
            let colour = style.colour;
            body += &format!(
                "<polygon class=\"band\" points=\"{}\" fill=\"{colour}\" fill-opacity=\"0.16\"/>",
                frame.points(around)
            );
        }
        if !thin.is_empty() {
            let colour = style.colour;
            let all = frame.points(thin.iter().copied());
            body += &format!("<polyline points=\"{all}\" fill=\"none\" stroke=\"{colour}\" stroke-opacity=\"0.35\"/>");
        }
        let all = frame.points(line.iter().copied());
        body += &format!("<polyline class=\"line\" points=\"{all}\" {}/>", style.stroke(2.2));
        if *markers || line.len() == 1 {
            line.iter().for_each(|(x, y)| body += &style.at(frame.x(*x), frame.y(*y)));
        }
        body + "</g>"
    }
}

/// Stacked bars, one below the other.
pub struct Bars {
    /// Above the bars.
    pub title: String,
    /// The name and the unit of the x axis.
    pub x_label: String,
    /// The parts and their colours, in the order in which they are stacked.
    pub parts: Vec<(String, &'static str)>,
    /// A name, a class and the size of each part.
    pub bars: Vec<(String, String, Vec<f64>)>,
    /// Whether the picture has its own title.
    pub alone: bool,
}

impl Bars {
    /// The bars as an `<svg>` element.
    pub fn svg(&self) -> String {
        const NAMES: f64 = 190.0;
        const ROW: f64 = 30.0;
        let (top, right) = (if self.alone { 40.0 } else { 10.0 }, WIDTH - 64.0);
        let total = |sizes: &[f64]| sizes.iter().sum::<f64>();
        let most = self.bars.iter().map(|(.., sizes)| total(sizes)).fold(0.0, f64::max).max(1e-9);
        let bottom = top + ROW * self.bars.len() as f64 + 4.0;
        let x = |v: f64| NAMES + v / most * (right - NAMES);
        let mut body = String::new();
        if self.alone {
            body += &text(16.0, 25.0, "start", 16.0, &shortened(&self.title, 66));
        }
        for tick in round_ticks(0.0, most, 6) {
            let at = x(tick);
            body += &format!("<path d=\"M{at:.1} {top}V{bottom}\" stroke=\"#e4e4e4\"/>");
            body += &text(at, bottom + 18.0, "middle", FONT, &tick_label(tick, most));
        }
        for (i, (name, class, sizes)) in self.bars.iter().enumerate() {
            let y = top + ROW * i as f64 + 6.0;
            body += &format!("<g class=\"{class}\">");
            body += &text(NAMES - 8.0, y + 14.0, "end", FONT, &shortened(name, 23));
            let mut begin = 0.0;
            for (part, size) in sizes.iter().enumerate().filter(|(_, size)| **size > 0.0) {
                let (from, to) = (x(begin), x(begin + size));
                let (name, fill) = &self.parts[part];
                let said = format!("{name}: {size:.1}");
                body += &format!(
                    "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"20\" fill=\"{fill}\" stroke=\"#fff\">\
                     <title>{}</title></rect>",
                    to - from,
                    html(&said)
                );
                begin += size;
            }
            body += &text(x(begin) + 6.0, y + 14.0, "start", FONT, &format!("{begin:.0}"));
            body += "</g>";
        }
        body += &format!("<path d=\"M{NAMES} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"{INK}\"/>");
        body += &text((NAMES + right) / 2.0, bottom + 39.0, "middle", FONT, &self.x_label);
        let samples = self.parts.iter().map(|(name, fill)| {
            let fill = *fill;
            let square = move |x: f64, y: f64| {
                format!("<rect x=\"{:.1}\" y=\"{:.1}\" width=\"14\" height=\"14\" fill=\"{fill}\"/>", x + 14.0, y - 7.0)
            };
            (name.as_str(), Box::new(square) as Sample)
        });
        let below = legend(&mut body, bottom + 60.0, samples);
        picture(below, &format!("{}, {}", self.title, self.x_label), "", &body)
    }
}

/// Draws the sample of a legend's entry at the left end of a line.
type Sample = Box<dyn Fn(f64, f64) -> String>;

/// Adds a legend that begins at `y`, and returns where the next line is.
fn legend<'a>(body: &mut String, mut y: f64, entries: impl Iterator<Item = (&'a str, Sample)>) -> f64 {
    let (mut x, begin) = (LEFT, LEFT);
    for (label, sample) in entries {
        let label = shortened(label, 60);
        let width = 36.0 + width(&label, FONT) + 20.0;
        if x > begin && x + width > WIDTH {
            (x, y) = (begin, y + LINE);
        }
        *body += &sample(x, y - 4.5);
        *body += &text(x + 36.0, y, "start", FONT, &label);
        x += width;
    }
    y + LINE
}

fn picture(height: f64, about: &str, data: &str, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"DejaVu Sans, Verdana, Arial, sans-serif\" role=\"img\" aria-label=\"{}\"{data}>\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>{body}</svg>",
        html(about)
    )
}

fn text(x: f64, y: f64, anchor: &str, size: f64, said: &str) -> String {
    format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"{INK}\">{}</text>",
        html(said)
    )
}

/// About the width of a text in DejaVu Sans, in pixels.
fn width(text: &str, size: f64) -> f64 {
    let of = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | ' ' | '.' | ',' | ':' | ';' | '\'' | '|' | '-' | '(' | ')' | 'f' | 't' | 'r' => 0.37,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 0.95,
        c if c.is_ascii_lowercase() => 0.61,
        c if c.is_ascii() => 0.68,
        _ => 0.9,
    };
    size * text.chars().map(of).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_eight_series_look_different() {
        let all: Vec<Style> = (0..28).map(Style::of).collect();
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b), "{i}");
        }
    }
}
