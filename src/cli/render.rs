//! Answers for people: tables, lengths of time, sizes.

use std::time::SystemTime;

use bus_schema::Timestamp;

/// Columns, each as wide as its widest cell; the last one is not padded.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| one_line(cell)).collect());
    }

    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell_width =
            |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
        let widths: Vec<_> = (0..columns)
            .map(|column| self.rows.iter().map(|row| cell_width(row, column)).max().unwrap_or(0))
            .collect();
        let line = |row: &Vec<String>| {
            let cells: Vec<_> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            cells.join("  ").trim_end().to_owned() + "\n"
        };
        self.rows.iter().map(line).collect()
    }
}

/// Text for a terminal. Publishers, sources and file names write parts of it: what would steer the terminal, or
/// turn the reading direction, is shown as `\u{1b}` and the like. Its lines stay lines.
pub(crate) fn harmless(text: &str) -> String {
    text.split('\n').map(one_line).collect::<Vec<_>>().join("\n")
}

/// JSON text on one line for a terminal: the same value, with what would steer the terminal escaped. Such characters
/// stand within strings only.
pub(crate) fn harmless_json(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, char| {
        if char.is_control() || turns_direction(char) {
            shown += &format!("\\u{:04x}", u32::from(char));
        } else {
            shown.push(char);
        }
        shown
    })
}

/// The same for text of others that must not begin a line of its own, which would look like one of farside's.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, char| {
        if char.is_control() || turns_direction(char) {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
        shown
    })
}

/// The characters that make a terminal show text in another order (Unicode Standard Annex 9, section 2).
fn turns_direction(char: char) -> bool {
    matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A length of time for people: `230 ms`, `4.2 s`, `3 min`, `2 h`, `5 d`.
pub(crate) fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1_000.0),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        3_600_000..86_400_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// `1 event`, `2 events`.
pub(crate) fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// The present, by this machine's clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// How long ago, or how long until.
pub(crate) fn relative(moment: Option<Timestamp>, now: Timestamp) -> String {
    match moment {
        None => "-".to_owned(),
        Some(moment) if moment > now => format!("in {}", span(moment.ms_since(now))),
        Some(moment) => format!("{} ago", span(now.ms_since(moment))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let mut table = Table::new(&["POOL", "ROWS"]);
        table.row(["local/größe".to_owned(), "7".to_owned()]);
        assert_eq!(table.text(), "POOL         ROWS\nlocal/größe  7\n");
    }

    #[test]
    fn text_of_others_neither_steers_the_terminal_nor_makes_lines_of_its_own() {
        let steering = "a\u{1b}[2J\u{9b}31m\r\u{7}\u{202e}größe";
        assert_eq!(one_line(steering), "a\\u{1b}[2J\\u{9b}31m\\r\\u{7}\\u{202e}größe");
        assert_eq!(harmless("a\nb\tc\n"), "a\nb\\tc\n");
        let value = serde_json::Value::from(steering);
        let json = harmless_json(&value.to_string());
        assert!(json.chars().all(|char| !char.is_control()) && !json.contains('\u{202e}'), "{json}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), value);
        let mut table = Table::new(&["SUBJECT"]);
        table.row(["x\nALARM  all is lost\u{1b}[0m".to_owned()]);
        assert_eq!(table.text(), "SUBJECT\nx\\nALARM  all is lost\\u{1b}[0m\n");
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|n| count(n, "event")), ["0 events", "1 event", "2 events"]);
    }

    #[test]
    fn times_are_short() {
        assert_eq!(
            [999, 4_200, 61_000, 7_200_000, 90_000_000].map(span),
            ["999 ms", "4.2 s", "1 min", "2 h", "1 d"]
        );
    }
}
