//! The legacy body: `application/x-www-form-urlencoded`, as clients send it without XML.
//!
//! ```text
//! username=alice&group%5flist=staff        then        password=%66oo+bar
//! ```
//!
//! Names and values are decoded once: `+` is a space and `%XX` a byte, the whole UTF-8. A field that
//! is there twice is refused, unknown fields are ignored.
//!
//! # Source
//! protocol.md sections 2.3 and 2.4.

use zeroize::Zeroizing;

use super::fields::{LoginFields, Step};

/// The most fields; a login has three.
const MAX_FORM_FIELDS: usize = 64;

/// Why a body is not a form that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormError {
    #[error("form with more than {MAX_FORM_FIELDS} fields")]
    TooManyFields,
    #[error("form escape is not % and two hexadecimal digits")]
    Escape,
    #[error("form field is not UTF-8")]
    NotUtf8,
    #[error("login field is there twice")]
    Duplicate,
}

/// Reads the login fields of a urlencoded body.
///
/// # Errors
/// If an escape or the encoding is wrong, a login field is repeated, or there are too many.
pub(crate) fn read(body: &[u8]) -> Result<LoginFields, FormError> {
    let mut fields = LoginFields { step: Step::Reply, ..LoginFields::EMPTY };
    for (count, pair) in body.trim_ascii().split(|&byte| byte == b'&').enumerate() {
        if count >= MAX_FORM_FIELDS {
            return Err(FormError::TooManyFields);
        }
        let at = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
        let (name, value) = (&pair[..at], pair.get(at + 1..).unwrap_or_default());
        match decode(name)?.as_str() {
            "username" => fill(&mut fields.username, decode(value)?.to_string())?,
            "password" => fill(&mut fields.password, decode(value)?)?,
            "group_list" => fill(&mut fields.group, decode(value)?.to_string())?,
            _ => {}
        }
    }
    Ok(fields)
}

fn fill<T>(field: &mut Option<T>, value: T) -> Result<(), FormError> {
    match field.replace(value) {
        Some(_) => Err(FormError::Duplicate),
        None => Ok(()),
    }
}

fn decode(text: &[u8]) -> Result<Zeroizing<String>, FormError> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                high << 4 | low
            }
            other => other,
        });
    }
    let text = std::str::from_utf8(&out).map_err(|_| FormError::NotUtf8)?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn digit(byte: Option<u8>) -> Result<u8, FormError> {
    match byte {
        Some(byte @ b'0'..=b'9') => Ok(byte - b'0'),
        Some(byte @ b'a'..=b'f') => Ok(byte - b'a' + 10),
        Some(byte @ b'A'..=b'F') => Ok(byte - b'A' + 10),
        _ => Err(FormError::Escape),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Covers: statement 14
    #[test]
    fn the_fields_of_the_stock_client_are_read() {
        let fields = read(b"username=al%69ce&group%5flist=Group+A%21").unwrap();
        assert_eq!(fields.username.as_deref(), Some("alice"));
        assert_eq!(fields.group.as_deref(), Some("Group A!"));
        let fields = read(b"password=p%26%3d%c3%b6&secondary_password=x\n").unwrap();
        assert_eq!(fields.password.as_deref().map(String::as_str), Some("p&=\u{f6}"));
        assert_eq!((fields.username, fields.step), (None, Step::Reply));
    }

    #[test]
    fn repeated_fields_bad_escapes_and_other_encodings_are_refused() {
        assert_eq!(read(b"username=a&username=b"), Err(FormError::Duplicate));
        assert_eq!(read(b"password=a&pass%77ord=b"), Err(FormError::Duplicate));
        for body in [&b"username=%"[..], b"username=%4", b"username=%zz", b"%g=1"] {
            assert_eq!(read(body), Err(FormError::Escape), "{body:?}");
        }
        assert_eq!(read(b"username=%ff"), Err(FormError::NotUtf8));
        assert_eq!(read("a&".repeat(64).as_bytes()), Err(FormError::TooManyFields));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn every_password_is_read_as_it_was(password in any::<String>()) {
            let encoded: String = password.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let fields = read(format!("password={encoded}").as_bytes()).unwrap();
            prop_assert_eq!(fields.password.as_deref(), Some(&password));
        }
    }
}
