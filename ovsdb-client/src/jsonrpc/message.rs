//! One JSON-RPC 1.0 message. Only the envelope is parsed; parameters and results stay text until somebody wants them.

use std::borrow::Cow;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

/// A frame that is not a JSON-RPC 1.0 message.
#[derive(Debug, Error)]
#[error("malformed JSON-RPC message: {why}")]
pub struct Malformed {
    why: String,
}

impl Malformed {
    pub(crate) fn new(why: impl fmt::Display) -> Self {
        Self { why: why.to_string() }
    }
}

/// One message, borrowing its parameters or result from the frame it was parsed from.
///
/// Source: the JSON-RPC 1.0 specification as RFC 7047 §4 uses it. An id is any JSON value but null.
#[derive(Clone, Debug)]
pub enum Message<'a> {
    /// Asks the peer for a reply with the same `id`.
    Request {
        /// Repeated in the reply; never null.
        id: Value,
        /// The method's name.
        method: Cow<'a, str>,
        /// The method's parameters, an array in OVSDB and unixctl.
        params: Cow<'a, RawValue>,
    },
    /// Tells the peer something; there is no reply.
    Notification {
        /// The method's name.
        method: Cow<'a, str>,
        /// The method's parameters.
        params: Cow<'a, RawValue>,
    },
    /// Answers a request.
    Reply {
        /// The request's id.
        id: Value,
        /// The result, or the error object (any JSON but null).
        outcome: Result<Cow<'a, RawValue>, Cow<'a, RawValue>>,
    },
}

/// Any serialisable value as JSON text for a [`Message`].
///
/// # Errors
///
/// [`Malformed`] when the value has no JSON form (a map whose keys are not strings).
pub fn raw<T: Serialize + ?Sized>(value: &T) -> Result<Box<RawValue>, Malformed> {
    serde_json::value::to_raw_value(value).map_err(Malformed::new)
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default)]
    method: Option<String>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(default)]
    id: Value,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Wire<'a> {
    Call { method: &'a str, params: &'a RawValue, id: &'a Value },
    Reply { result: Option<&'a RawValue>, error: Option<&'a RawValue>, id: &'a Value },
}

impl<'a> Message<'a> {
    /// A request ready to be sent.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when `params` has no JSON form.
    pub fn request<P: Serialize + ?Sized>(
        id: impl Into<Value>,
        method: impl Into<Cow<'a, str>>,
        params: &P,
    ) -> Result<Self, Malformed> {
        Ok(Self::Request { id: id.into(), method: method.into(), params: Cow::Owned(raw(params)?) })
    }

    /// A notification ready to be sent.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when `params` has no JSON form.
    pub fn notification<P: Serialize + ?Sized>(
        method: impl Into<Cow<'a, str>>,
        params: &P,
    ) -> Result<Self, Malformed> {
        Ok(Self::Notification { method: method.into(), params: Cow::Owned(raw(params)?) })
    }

    /// A successful reply ready to be sent.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when `result` has no JSON form.
    pub fn reply<R: Serialize + ?Sized>(id: Value, result: &R) -> Result<Self, Malformed> {
        Ok(Self::Reply { id, outcome: Ok(Cow::Owned(raw(result)?)) })
    }

    /// A reply that reports an error, ready to be sent. OVS's control sockets send a string here.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when `error` has no JSON form.
    pub fn error<E: Serialize + ?Sized>(id: Value, error: &E) -> Result<Self, Malformed> {
        Ok(Self::Reply { id, outcome: Err(Cow::Owned(raw(error)?)) })
    }

    /// Parses one frame.
    ///
    /// A message with a method is a request when it has an id, else a notification; one without a method is a reply. A
    /// reply whose result and error are both null succeeded with a null result.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when the frame is not JSON, not UTF-8, or not a JSON-RPC 1.0 message.
    pub fn parse(frame: &'a [u8]) -> Result<Self, Malformed> {
        let envelope: Envelope<'a> = serde_json::from_slice(frame).map_err(Malformed::new)?;
        let is_null = envelope.id.is_null();
        match (envelope.method, envelope.result, envelope.error) {
            (Some(method), None, None) => {
                let params = Cow::Borrowed(envelope.params.unwrap_or(RawValue::NULL));
                let method = Cow::Owned(method);
                Ok(if is_null {
                    Self::Notification { method, params }
                } else {
                    Self::Request { id: envelope.id, method, params }
                })
            }
            (Some(_), ..) => Err(Malformed::new("it has a method and also a result or an error")),
            (None, ..) if envelope.params.is_some() => Err(Malformed::new("it has params but no method")),
            (None, ..) if is_null => Err(Malformed::new("it has neither a method nor an id")),
            (None, Some(_), Some(_)) => Err(Malformed::new("it has both a result and an error")),
            (None, result, None) => Ok(Self::Reply {
                id: envelope.id,
                outcome: Ok(Cow::Borrowed(result.unwrap_or(RawValue::NULL))),
            }),
            (None, None, Some(error)) => {
                Ok(Self::Reply { id: envelope.id, outcome: Err(Cow::Borrowed(error)) })
            }
        }
    }

    /// The message as JSON text.
    pub fn to_bytes(&self) -> Vec<u8> {
        let wire = match self {
            Self::Request { id, method, params } => Wire::Call { method, params, id },
            Self::Notification { method, params } => Wire::Call { method, params, id: &Value::Null },
            Self::Reply { id, outcome: Ok(result) } => Wire::Reply { result: Some(result), error: None, id },
            Self::Reply { id, outcome: Err(error) } => Wire::Reply { result: None, error: Some(error), id },
        };
        serde_json::to_vec(&wire).expect("strings, JSON values and JSON text always have a JSON form")
    }

    /// The message with everything it borrows copied.
    pub fn into_owned(self) -> Message<'static> {
        fn own<T: ?Sized + ToOwned>(value: Cow<'_, T>) -> Cow<'static, T> {
            Cow::Owned(value.into_owned())
        }
        match self {
            Self::Request { id, method, params } => {
                Message::Request { id, method: own(method), params: own(params) }
            }
            Self::Notification { method, params } => {
                Message::Notification { method: own(method), params: own(params) }
            }
            Self::Reply { id, outcome } => Message::Reply { id, outcome: outcome.map(own).map_err(own) },
        }
    }

    /// Reads the parameters of a request or notification as `T`, for example `Vec<String>` for a control command.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when they are not of that shape, or when this is a reply.
    pub fn params_as<T: DeserializeOwned>(&self) -> Result<T, Malformed> {
        match self {
            Self::Request { params, .. } | Self::Notification { params, .. } => {
                serde_json::from_str(params.get()).map_err(Malformed::new)
            }
            Self::Reply { .. } => Err(Malformed::new("a reply has no params")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roundtrip(text: &str) -> String {
        String::from_utf8(Message::parse(text.as_bytes()).unwrap().to_bytes()).unwrap()
    }

    #[test]
    fn each_kind_survives_parsing_and_writing() {
        for text in [
            r#"{"method":"echo","params":["a",{"b":1}],"id":"x"}"#,
            r#"{"method":"update","params":[null,{}],"id":null}"#,
            r#"{"result":[],"error":null,"id":7}"#,
            r#"{"result":null,"error":"no such command","id":[1]}"#,
        ] {
            assert_eq!(roundtrip(text), text);
        }
    }

    #[test]
    fn a_reply_with_neither_result_nor_error_succeeded_with_null() {
        let message = Message::parse(br#"{"id":0,"result":null,"error":null}"#).unwrap();
        assert!(matches!(message, Message::Reply { outcome: Ok(result), .. } if result.get() == "null"));
    }

    #[test]
    fn what_is_no_message_is_malformed() {
        for text in [
            "{}",
            "{",
            r#"{"id":null,"result":1,"error":null}"#,
            r#"{"id":1,"result":1,"error":1}"#,
            r#"{"id":1,"method":"a","params":[],"result":1}"#,
            r#"{"id":1,"params":[]}"#,
            r#"{"id":1,"method":5,"params":[]}"#,
            r#"{"id":1,"result":tru,"error":null}"#,
        ] {
            assert!(Message::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(
            Message::parse(b"{\"id\":1,\"result\":\"\xc3\",\"error\":null}").is_err(),
            "half a UTF-8 character"
        );
    }

    #[test]
    fn params_are_read_as_the_type_asked_for() {
        let message = Message::parse(br#"{"method":"flow/list","params":["-v"],"id":0}"#).unwrap();
        assert_eq!(message.params_as::<Vec<String>>().unwrap(), ["-v"]);
        assert!(message.params_as::<Vec<u32>>().is_err());
    }
}
