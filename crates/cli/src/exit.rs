//! How a failure becomes a message and an exit code. This is the one place that knows the codes.

use std::error::Error as StdError;

use smidgen_data::Error as Data;
use smidgen_eval::Error as Eval;
use smidgen_link::Error as Link;
use smidgen_link::net::NetError;
use smidgen_link::wire::EncodeError;
use smidgen_model::Error as Model;
use smidgen_optim::Error as Optim;
use smidgen_store::Error as Store;
use smidgen_train::Error as Train;

use crate::out;

/// Something failed.
pub(crate) const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
pub(crate) const USAGE: u8 = 2;
/// What was to be read cannot be.
pub(crate) const UNREADABLE: u8 = 3;
/// The plan does not fit into what it may use.
pub(crate) const OVER_BUDGET: u8 = 4;
/// Stopped by a signal, with everything saved.
pub(crate) const INTERRUPTED: u8 = 130;

/// A failure that the command line itself found, with its code.
#[derive(Debug)]
pub(crate) struct Fault {
    code: u8,
    text: String,
}

impl Fault {
    /// A command line that cannot be done, found after it was parsed.
    pub(crate) fn usage(text: impl Into<String>) -> Fault {
        Fault { code: USAGE, text: text.into() }
    }

    /// What another process of this program ended with: its code and its words.
    pub(crate) fn of_process(code: Option<i32>, said: &str) -> Fault {
        let code = code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code > 0);
        let text = said.trim().trim_start_matches("error: ");
        Fault { code: code.unwrap_or(FAILED), text: text.into() }
    }

    /// Input that is named on the command line and cannot be read.
    pub(crate) fn unreadable(text: impl Into<String>) -> Fault {
        Fault { code: UNREADABLE, text: text.into() }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Fault {}

/// Prints an error and what it came from, and gives the code that says which kind it was.
pub(crate) fn report(error: &anyhow::Error) -> u8 {
    out::note(format_args!("error: {}", message(error)));
    code(error)
}

/// Every cause once: many messages already hold those they came from.
fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The exit code of an error: the first cause whose kind is known decides.
fn code(error: &anyhow::Error) -> u8 {
    // As a context, a fault is not among the causes that `chain` shows by type.
    let fault = error.downcast_ref::<Fault>().map(|fault| fault.code);
    fault.or_else(|| error.chain().find_map(known)).unwrap_or(FAILED)
}

fn known(cause: &(dyn StdError + 'static)) -> Option<u8> {
    let train = cause.downcast_ref::<Train>().map(train);
    train
        .or_else(|| cause.downcast_ref::<Data>().map(data))
        .or_else(|| cause.downcast_ref::<Store>().map(store))
        .or_else(|| cause.downcast_ref::<Model>().map(model))
        .or_else(|| cause.downcast_ref::<Optim>().map(optim))
        .or_else(|| cause.downcast_ref::<Eval>().map(eval))
        .or_else(|| cause.downcast_ref::<Link>().map(link))
}

fn train(error: &Train) -> u8 {
    match error {
        refusal if refusal.is_refusal() => OVER_BUDGET,
        Train::Store(error) => store(error),
        Train::Data(error) => data(error),
        Train::Model(error) => model(error),
        Train::Optim(error) => optim(error),
        Train::Eval(error) => eval(error),
        Train::Value { .. }
        | Train::NoSource
        | Train::UnknownPreset { .. }
        | Train::ConfigChanged { .. }
        | Train::RateRises { .. }
        | Train::NotFinished { .. }
        | Train::CannotOverride { .. } => USAGE,
        Train::Foreign { .. }
        | Train::NoEma { .. }
        | Train::NotAModel { .. }
        | Train::NoTokenizer { .. } => UNREADABLE,
        Train::OverBudget { .. } | Train::NoRelief { .. } => OVER_BUDGET,
        _ => FAILED,
    }
}

fn link(error: &Link) -> u8 {
    match error {
        Link::Train(error) => train(error),
        Link::Store(error) => store(error),
        Link::Data(error) => data(error),
        Link::Model(error) => model(error),
        Link::Encode(EncodeError::Cap { .. }) | Link::Refused(_) => OVER_BUDGET,
        Link::Encode(EncodeError::Plan { .. }) => USAGE,
        Link::Value { .. } | Link::UnknownName { .. } | Link::OtherWorld { .. } => USAGE,
        Link::Needs { .. } => USAGE,
        Link::Wire(_) | Link::Foreign { .. } | Link::NoFuserLayers { .. } => UNREADABLE,
        Link::Unfinished { .. } => UNREADABLE,
        Link::Interrupted { .. } => INTERRUPTED,
        Link::Net(error) => net(error),
        _ => FAILED,
    }
}

fn net(error: &NetError) -> u8 {
    match error {
        NetError::NotLoopback { .. } | NetError::NoKey { .. } | NetError::Unsayable { .. } => USAGE,
        NetError::Key { .. } => UNREADABLE,
        _ => FAILED,
    }
}

fn eval(error: &Eval) -> u8 {
    match error {
        Eval::Store(error) => store(error),
        Eval::Data(error) => data(error),
        Eval::Model(error) => model(error),
        Eval::Range { .. } => USAGE,
        Eval::NoText | Eval::NoPrompts { .. } => UNREADABLE,
        _ => FAILED,
    }
}

fn data(error: &Data) -> u8 {
    match error {
        Data::Store(error) => store(error),
        Data::Glob { .. } | Data::Range { .. } | Data::TooFewTokens { .. } => USAGE,
        Data::Tokenize { .. } | Data::Worker { .. } => FAILED,
        _ => UNREADABLE,
    }
}

fn store(error: &Store) -> u8 {
    match error {
        Store::Io { action: "read" | "open", .. }
        | Store::Missing { .. }
        | Store::Corrupt { .. }
        | Store::NotARun { .. }
        | Store::NoCheckpoint { .. }
        | Store::Tensor { .. } => UNREADABLE,
        Store::RunExists { .. }
        | Store::NotEmpty { .. }
        | Store::Exists { .. }
        | Store::Toml { .. }
        | Store::UnknownKey { .. }
        | Store::MissingKey { .. }
        | Store::Value { .. }
        | Store::Invalid { .. }
        | Store::Set { .. }
        | Store::Bytes { .. }
        | Store::Which { .. } => USAGE,
        _ => FAILED,
    }
}

fn model(error: &Model) -> u8 {
    match error {
        Model::Tensor(_) => FAILED,
        Model::Store(error) => store(error),
        Model::Foreign { .. } => UNREADABLE,
        _ => USAGE,
    }
}

fn optim(error: &Optim) -> u8 {
    match error {
        Optim::Tensor(_) | Optim::NotFinite { .. } | Optim::Twice { .. } => FAILED,
        Optim::MissingState { .. }
        | Optim::UnknownState { .. }
        | Optim::SavedFormat { .. }
        | Optim::SavedShape { .. }
        | Optim::SavedBytes { .. } => UNREADABLE,
        _ => USAGE,
    }
}

/// A panic is our mistake: says so in two lines, without a backtrace in a person's face.
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or(String::new(), |at| format!(" at {at}"));
        let said = info.payload();
        let text = said.downcast_ref::<&str>().copied();
        let text = text.or_else(|| said.downcast_ref::<String>().map(String::as_str));
        out::note(format_args!(
            "error: this is a bug in smidgen, not in your input: {}{place}\n  \
             hint: please report this message, the command and the output of `smidgen --version`",
            text.unwrap_or("no message")
        ));
        std::process::exit(i32::from(FAILED));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(action: &'static str) -> Store {
        let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        Store::Io { action, path: "x".into(), source }
    }

    #[test]
    fn every_kind_has_its_code_however_deep_it_lies() {
        let over = Train::OverBudget { needed_bytes: 2, limit_bytes: 1, hint: String::new() };
        let cases: Vec<(anyhow::Error, u8)> = vec![
            (anyhow::anyhow!("whatever"), FAILED),
            (Fault::usage("x").into(), USAGE),
            (anyhow::anyhow!("x").context(Fault::unreadable("y")), UNREADABLE),
            (Train::NoSource.into(), USAGE),
            (Train::from(Data::from(io("read"))).into(), UNREADABLE),
            (Train::from(io("write")).into(), FAILED),
            (anyhow::Error::from(over).context("while planning"), OVER_BUDGET),
            (Data::Missing { path: "x".into() }.into(), UNREADABLE),
        ];
        for (error, expected) in cases {
            assert_eq!(code(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::Error::from(Train::from(io("read"))).context("no run");
        let text = message(&error);
        assert_eq!(text.matches("permission denied").count(), 1, "{text}");
        assert!(text.starts_with("no run: cannot read x"), "{text}");
    }
}
