//! The user's editor: `$VISUAL`, else `$EDITOR`, else `vi`, as a program with its arguments.

use std::path::Path;
use std::process::Command;

/// Opens a file and waits until the editor is closed.
pub fn open(path: &Path) -> Result<(), String> {
    let named = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let command = named("VISUAL").or_else(|| named("EDITOR")).unwrap_or_else(|| "vi".into());
    run(&command, path)
}

fn run(command: &str, path: &Path) -> Result<(), String> {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap_or("vi");
    match Command::new(program).args(words).arg(path).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!(
            "the editor `{command}` ended with {status}; $VISUAL and $EDITOR say which one is opened"
        )),
        Err(e) => Err(format!("the editor `{command}` cannot be opened: {e}; set $VISUAL or $EDITOR")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_editor_is_a_program_with_arguments_and_says_what_is_wrong() {
        let path = Path::new("/dev/null");
        assert_eq!(run("test -e", path), Ok(()));
        assert!(run("false", path).unwrap_err().contains("ended with"));
        assert!(run("no-such-editor -w", path).unwrap_err().contains("cannot be opened"));
    }
}
