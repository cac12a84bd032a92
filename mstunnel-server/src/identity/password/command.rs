//! The body of `mstunnel-server passwd FILE USER`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::hash::MAX_PASSWORD_BYTES;
use super::write::{Edit, PasswdError, edit};
use crate::identity::secret_file::SecretFileError;

/// The arguments of `mstunnel-server passwd`.
#[derive(Debug, clap::Args)]
pub struct PasswdArgs {
    /// Change this password file; made if it is not there
    pub file: PathBuf,
    /// Change or add this user
    pub user: String,
    /// Put the user into these groups (comma between them); "*" for none. Without it, groups stay
    #[arg(short, long, value_delimiter = ',')]
    pub group: Option<Vec<String>>,
    /// Read the password from the first line of this file ("-" for standard input)
    #[arg(long, value_name = "F", conflicts_with_all = ["lock", "unlock", "delete"])]
    pub password_file: Option<PathBuf>,
    /// Lock the user
    #[arg(short, long, conflicts_with_all = ["unlock", "delete", "group"])]
    pub lock: bool,
    /// Unlock the user
    #[arg(short, long, conflicts_with_all = ["delete", "group"])]
    pub unlock: bool,
    /// Remove the user
    #[arg(short, long, conflicts_with = "group")]
    pub delete: bool,
}

/// Changes a password file as the arguments say.
///
/// # Errors
/// See [`PasswdError`]; the file is then unchanged.
pub fn passwd_command(args: &PasswdArgs) -> Result<(), PasswdError> {
    let change = |what: &Edit<'_>| edit(&args.file, &args.user, what);
    match (args.lock, args.unlock, args.delete) {
        (true, ..) => change(&Edit::Lock),
        (_, true, _) => change(&Edit::Unlock),
        (.., true) => change(&Edit::Delete),
        (false, false, false) => {
            let password = ask_password(args.password_file.as_deref())?;
            let groups = args
                .group
                .as_ref()
                .map(|groups| groups.iter().filter(|group| *group != "*").cloned().collect::<Vec<_>>());
            change(&Edit::Set { password: &password, groups: groups.as_deref() })
        }
    }
}

fn ask_password(file: Option<&Path>) -> Result<Zeroizing<String>, PasswdError> {
    let input = |error: io::Error| PasswdError::Input(SecretFileError::Io(error));
    match file {
        Some(path) if path == Path::new("-") => first_line(io::stdin().lock()),
        Some(path) => first_line(File::open(path).map_err(input)?),
        None if io::stdin().is_terminal() => {
            let first = Zeroizing::new(rpassword::prompt_password("Password: ").map_err(input)?);
            let second = Zeroizing::new(rpassword::prompt_password("Again: ").map_err(input)?);
            if *first == *second { Ok(first) } else { Err(PasswdError::Mismatch) }
        }
        None => first_line(io::stdin().lock()),
    }
    .map(|password| Zeroizing::new(password.trim_end_matches(['\r', '\n']).to_owned()))
}

/// The first line, of which no more is read than a password may have.
fn first_line(from: impl Read) -> Result<Zeroizing<String>, PasswdError> {
    // Room for all of it at once: a growing string would leave copies behind.
    let limit = MAX_PASSWORD_BYTES + 2;
    let mut line = Zeroizing::new(String::with_capacity(limit));
    BufReader::with_capacity(limit, from.take(limit as u64))
        .read_line(&mut line)
        .map_err(|error| PasswdError::Input(SecretFileError::Io(error)))?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::identity::credentials::Verdict;
    use crate::identity::password::PasswordFile;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: PasswdArgs,
    }

    fn run(arguments: &[&str]) -> Result<(), PasswdError> {
        passwd_command(&Cli::try_parse_from(["passwd"].iter().chain(arguments)).unwrap().args)
    }

    #[tokio::test]
    async fn a_user_made_by_the_command_can_log_in_until_locked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users").to_str().unwrap().to_owned();
        let secret = dir.path().join("secret").to_str().unwrap().to_owned();
        std::fs::write(&secret, "pa ss:w\u{f6}rd\r\nsecond line\n").unwrap();
        run(&[&file, "alice", "--group", "staff,vpn", "--password-file", &secret]).unwrap();
        let users = PasswordFile::open(&file).unwrap();
        let password = Zeroizing::new("pa ss:w\u{f6}rd".to_owned());
        let groups = vec!["staff".to_owned(), "vpn".to_owned()];
        assert_eq!(
            users.verify("alice", &password).await,
            Verdict::Accepted { user: "alice".to_owned(), groups }
        );

        run(&[&file, "alice", "--lock"]).unwrap();
        users.reload().unwrap();
        assert_eq!(users.verify("alice", &password).await, Verdict::Rejected);
        run(&[&file, "alice", "-u"]).unwrap();
        run(&[&file, "alice", "--group", "*", "--password-file", &secret]).unwrap();
        users.reload().unwrap();
        let groups = Vec::new();
        assert_eq!(
            users.verify("alice", &password).await,
            Verdict::Accepted { user: "alice".to_owned(), groups }
        );
        run(&[&file, "alice", "--delete"]).unwrap();
        users.reload().unwrap();
        assert_eq!(users.user_count(), 0);
    }

    #[test]
    fn what_makes_no_sense_together_is_misuse() {
        for arguments in [
            &["f", "u", "--lock", "--unlock"][..],
            &["f", "u", "--lock", "--delete"],
            &["f", "u", "--delete", "--group", "aa"],
            &["f", "u", "--lock", "--password-file", "x"],
            &["f"],
        ] {
            assert!(Cli::try_parse_from(["passwd"].iter().chain(arguments)).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn a_password_file_that_is_missing_empty_or_too_long_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users").to_str().unwrap().to_owned();
        let secret = dir.path().join("secret").to_str().unwrap().to_owned();
        assert!(matches!(run(&[&file, "alice", "--password-file", &secret]), Err(PasswdError::Input(_))));
        for text in ["", "\n", "\nsecret\n", &"x".repeat(MAX_PASSWORD_BYTES + 1), &"x".repeat(100_000)] {
            std::fs::write(&secret, text).unwrap();
            let outcome = run(&[&file, "alice", "--password-file", &secret]);
            assert!(matches!(outcome, Err(PasswdError::Password { .. })), "{}", text.len());
        }
        assert!(!dir.path().join("users").exists());
    }
}
