//! The stable codes of failures: visitors, the access log and the metrics see the same ones.

macro_rules! failure_codes {
    ($($code:ident = $text:literal,)*) => {
        /// A stable code of a failure. Its place is what the metrics count by: append new codes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(dead_code, reason = "`other` stands for codes of later versions")]
        pub(crate) enum FailureCode {
            $(#[doc = concat!("`", $text, "`")] $code,)*
        }

        impl FailureCode {
            /// The texts of all codes, in the order of the enum.
            pub(crate) const TEXTS: &[&str] = &[$($text),*];

            /// Returns the text of the code.
            pub(crate) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$code => $text,)*
                }
            }
        }
    };
}

failure_codes! {
    Other = "other",
    UnknownName = "unknown_name",
    NotFound = "not_found",
    MethodNotAllowed = "method_not_allowed",
    WrongKind = "wrong_kind",
    TunnelOffline = "tunnel_offline",
    TunnelBusy = "tunnel_busy",
    TunnelStalled = "tunnel_stalled",
    TunnelLost = "tunnel_lost",
    ServiceGone = "service_gone",
    LocalUnreachable = "local_unreachable",
    LocalTimeout = "local_timeout",
    LocalBroken = "local_broken",
    ResponseTimeout = "response_timeout",
    RequestTimeout = "request_timeout",
    BadRequest = "bad_request",
    HeadTooLarge = "head_too_large",
    RateLimited = "rate_limited",
    SiteRateLimited = "site_rate_limited",
    Forbidden = "forbidden",
    Unauthorized = "unauthorized",
    BadSignature = "bad_signature",
    BodyTooLarge = "body_too_large",
    AccessBusy = "access_busy",
    CutByOperator = "cut_by_operator",
    AddressBusy = "address_busy",
    HeadsBusy = "heads_busy",
}
