//! How a failure becomes a message and an exit code.

use std::process::ExitCode;

use crate::out;

/// Something failed.
pub(crate) const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
pub(crate) const USAGE: u8 = 2;

/// A command line that cannot be done, found after it was parsed.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Prints an error and what it came from, and gives the code that says which kind it was.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    out::note(format_args!("error: {error:#}"));
    ExitCode::from(code(error))
}

/// The exit code of an error: the first cause whose kind is known decides.
fn code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(known).unwrap_or(FAILED)
}

fn known(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    use smidgen_model::Error as Model;
    use smidgen_optim::Error as Optim;
    if cause.is::<Usage>() {
        return Some(USAGE);
    }
    if let Some(error) = cause.downcast_ref::<Model>() {
        return matches!(error, Model::Spec { .. } | Model::Sampling { .. }).then_some(USAGE);
    }
    if let Some(error) = cause.downcast_ref::<Optim>() {
        return matches!(error, Optim::Policy { .. } | Optim::Value { .. }).then_some(USAGE);
    }
    None
}

/// A panic is our mistake: says so in three lines, without a backtrace in a person's face.
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or(String::new(), |at| format!(" at {at}"));
        let said = info.payload();
        let said =
            said.downcast_ref::<&str>().copied().or(said.downcast_ref::<String>().map(|s| &**s));
        let what = said.unwrap_or("no message");
        out::note(format_args!(
            "error: this is a bug in smidgen, not in your input: {what}{place}\n  \
             hint: please report the command, this message and `smidgen --version`"
        ));
        std::process::exit(i32::from(FAILED));
    }));
}
