//! Ends a stream of text before the first of some stop texts.

/// Looks for stop texts in a stream and holds back what may be the beginning of one.
#[derive(Debug)]
pub(crate) struct StopText {
    stops: Vec<String>,
    held: String,
}

impl StopText {
    /// Empty texts stop nothing.
    pub(crate) fn new(stops: &[String]) -> StopText {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        StopText { stops, held: String::new() }
    }

    /// What can be shown now, and whether a stop text came; nothing after it is shown.
    pub(crate) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = first {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let begins = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let at = self.held.char_indices().map(|(at, _)| at).find(begins);
        let rest = self.held.split_off(at.unwrap_or(self.held.len()));
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back to the end.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut stop = StopText::new(&stops);
        let mut text = String::new();
        for piece in pieces {
            let (ready, stopped) = stop.push(piece);
            text.push_str(&ready);
            if stopped {
                return (text, true);
            }
        }
        text.push_str(&stop.finish());
        (text, false)
    }

    #[test]
    fn a_stop_text_across_pieces_is_found_and_nothing_of_it_is_shown() {
        assert_eq!(run(&["END"], &["abE", "N", "Dxy"]), ("ab".into(), true));
        assert_eq!(run(&["bc", "c"], &["a", "b", "c"]), ("a".into(), true));
        assert_eq!(run(&["aab"], &["aaa", "b"]), ("a".into(), true));
        assert_eq!(run(&["ß"], &["aß"]), ("a".into(), true));
    }

    #[test]
    fn what_only_began_like_a_stop_text_is_shown() {
        assert_eq!(run(&["END"], &["abE", "Nx", "EN"]), ("abENxEN".into(), false));
        assert_eq!(run(&[""], &["ab"]), ("ab".into(), false));
        assert_eq!(run(&[], &["ab", "c"]), ("abc".into(), false));
        assert_eq!(StopText::new(&["é!".into()]).push("aé").0, "a");
    }
}
