//! Asks before something that people would notice.

use std::io::{self, BufRead, IsTerminal as _, Write};

use crate::fault::CliFault;

/// Returns once a person at the terminal said yes, or at once where `force` says it for them.
pub(crate) fn confirm(question: &str, force: bool) -> Result<(), CliFault> {
    if force {
        return Ok(());
    }
    let stdin = io::stdin();
    let terminal = stdin.is_terminal();
    ask(question, terminal, &mut stdin.lock(), &mut io::stderr())
}

fn ask(question: &str, terminal: bool, answers: &mut dyn BufRead, out: &mut dyn Write) -> Result<(), CliFault> {
    if !terminal {
        return Err(CliFault::Argument(
            "nothing was changed: stdin is no terminal to ask at; `--force` goes ahead without asking".to_owned(),
        ));
    }
    let lost = |cause| CliFault::storage("the terminal cannot be used", cause);
    write!(out, "{question} [y/N] ").and_then(|()| out.flush()).map_err(lost)?;
    let mut answer = String::new();
    answers.read_line(&mut answer).map_err(lost)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CliFault::Failed("nothing was changed".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_at_a_terminal_goes_ahead() {
        let check = |terminal: bool, answer: &str| ask("Sure?", terminal, &mut answer.as_bytes(), &mut Vec::new());
        for yes in ["y\n", "Yes\n", " YES \n"] {
            assert!(check(true, yes).is_ok(), "{yes:?}");
        }
        for no in ["n\n", "\n", "", "yep\n", "是\n"] {
            assert!(matches!(check(true, no), Err(CliFault::Failed(_))), "{no:?}");
        }
        let unasked = check(false, "y\n").unwrap_err();
        assert!(unasked.to_string().contains("--force"), "{unasked}");
    }

    #[test]
    fn the_question_is_put_before_the_answer_is_read() {
        let mut shown = Vec::new();
        ask("Delete 考勤 🕘?", true, &mut "y\n".as_bytes(), &mut shown).unwrap();
        assert_eq!(String::from_utf8(shown).unwrap(), "Delete 考勤 🕘? [y/N] ");
    }
}
