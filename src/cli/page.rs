//! Text for people: a label, and what there is to say of it, line under line.

use std::fmt::Display;

/// Lines of a list that are printed; `--json` has them all.
pub(super) const LISTED: usize = 12;
/// What stands to the right of the labels has so many columns in a terminal of 100.
const COLUMNS: usize = 88;

/// The text so far.
#[derive(Default)]
pub(super) struct Page(String);

impl Page {
    /// A line without a label.
    pub fn plain(&mut self, text: impl Display) {
        self.0.push_str(text.to_string().trim_end());
        self.0.push('\n');
    }

    /// A label and its text, broken between words where it is too wide.
    pub fn line(&mut self, label: &str, text: impl Display) {
        let text = text.to_string();
        let (mut label, mut rest) = (label, text.as_str());
        while let Some((end, _)) = rest.char_indices().nth(COLUMNS + 1) {
            // A word that is too wide by itself, a path for one, stays whole.
            let Some(at) = rest[..end].rfind(' ').filter(|&at| !rest[..at].trim().is_empty()) else { break };
            self.plain(format!("{label:<10} {}", &rest[..at]));
            (label, rest) = ("", rest[at..].trim_start());
        }
        self.plain(format!("{label:<10} {rest}"));
    }

    /// The first items of a list, a line each, and how many more there are.
    pub fn list<T>(&mut self, label: &str, items: &[T], text: impl Fn(&T) -> String) {
        for (k, item) in items.iter().take(LISTED).enumerate() {
            self.line(if k == 0 { label } else { "" }, text(item));
        }
        if items.len() > LISTED {
            self.line("", format!("and {} more", items.len() - LISTED));
        }
    }

    /// Words separated by commas, in as many lines as they need.
    pub fn words(&mut self, label: &str, words: &[String]) {
        let (mut label, mut row) = (label, String::new());
        for word in words {
            if !row.is_empty() && row.len() + word.len() + 3 > COLUMNS {
                self.line(label, format!("{row},"));
                label = "";
                row.clear();
            }
            row = if row.is_empty() { word.clone() } else { format!("{row}, {word}") };
        }
        if !row.is_empty() {
            self.line(label, row);
        }
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// The ending of a noun.
pub(super) fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_words_is_wider_than_the_terminal() {
        let words: Vec<String> = (0..60).map(|k| format!("word_{k} {}", 7 * k)).collect();
        let mut page = Page::default();
        page.words("label", &words);
        assert!(
            page.text().lines().count() > 5 && page.text().lines().all(|line| line.len() <= 100),
            "{}",
            page.text()
        );
        assert_eq!(page.text().matches("word_").count(), 60);
        let mut page = Page::default();
        page.line("label", words.join(" and "));
        assert!(page.text().lines().all(|line| line.len() <= 100), "{}", page.text());
        assert_eq!(page.text().matches("word_").count(), 60);
        let path = "/".repeat(150);
        let mut page = Page::default();
        page.line("path", format!("in {path}"));
        assert!(page.text().lines().last().is_some_and(|line| line.ends_with(&path)), "{}", page.text());
    }
}
