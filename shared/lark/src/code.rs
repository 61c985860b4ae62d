//! The vendor's codes: one table that says what each means for the caller and what a person should fix.

/// Which token a call was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Token {
    Tenant,
    User,
    App,
}

/// What to do about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    Ok,
    /// Drop the cached token (refresh it, if it is a person's), try once more.
    TokenInvalid(Token),
    /// Only the person can help: send an authorization card.
    Reauthorize,
    /// Wait as long as the answer says, then try again.
    RateLimited,
    /// Try again soon, a few times.
    Transient,
    /// This request will never succeed; drop it and say so.
    Terminal,
    /// The app's settings or credentials are wrong; an administrator must act.
    Config,
    /// The request itself is wrong.
    Bug,
}

impl Class {
    /// Whether the same request may succeed later without anyone doing anything.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::RateLimited | Self::Transient)
    }
}

/// The class of an answer. `status` decides where the code is unknown, and an unknown code with an unremarkable status is terminal:
/// trying again would most likely fail again.
#[must_use]
pub fn classify(code: i64, status: u16) -> Class {
    known(code).map_or_else(|| of_status(status), |(class, _)| class)
}

/// The class of an answer that has no code.
#[must_use]
pub fn of_status(status: u16) -> Class {
    match status {
        401 => Class::TokenInvalid(Token::Tenant),
        408 | 500..=599 => Class::Transient,
        429 => Class::RateLimited,
        _ => Class::Terminal,
    }
}

/// One sentence on what to fix.
#[must_use]
pub fn advice(code: i64) -> &'static str {
    known(code).map_or("Look the code up in the vendor's documentation, with the log id.", |(_, advice)| advice)
}

/// Whether the table has this code.
#[must_use]
pub fn is_known(code: i64) -> bool {
    known(code).is_some()
}

#[rustfmt::skip]
fn known(code: i64) -> Option<(Class, &'static str)> {
    use Class::{Bug, Config, Ok, RateLimited, Reauthorize, Terminal, TokenInvalid, Transient};
    use Token::{App, Tenant, User};

    Some(match code {
        0 => (Ok, "Nothing to fix."),

        // OAuth and user information
        20001 => (Bug, "Send every required parameter."),
        20002 => (Config, "Correct the app secret."),
        20003 | 20007 => (Reauthorize, "The authorization code is unknown or was used; start the authorization again."),
        20004 => (Reauthorize, "The authorization code expired after 5 minutes; start the authorization again."),
        20005 => (TokenInvalid(User), "Refresh the user's token."),
        20008 => (Terminal, "The user does not exist."),
        20009 => (Terminal, "Install the app in the user's organisation."),
        20010 => (Terminal, "Let the user use the app: widen its availability."),
        20021 => (Terminal, "The user has resigned."),
        20022 => (Terminal, "The user is frozen."),
        20023 => (Terminal, "The user has not registered."),
        20024 => (Config, "The code or refresh token belongs to another app; use that app's credentials."),
        20026 => (Reauthorize, "The refresh token is invalid or of the old kind; ask the user to authorize again."),
        20027 => (Config, "Enable the scope for the app and publish a version."),
        20036 => (Bug, "Use a supported grant type."),
        20037 => (Reauthorize, "The refresh token expired; ask the user to authorize again."),
        20048 => (Config, "Correct the app id; no such app exists."),
        20049 => (Reauthorize, "The PKCE verifier does not match; start the authorization again."),
        20050 => (Transient, "The vendor's authorization server failed; try again."),
        20063 => (Bug, "Send a well-formed body."),
        20064 => (Reauthorize, "The refresh token was revoked; ask the user to authorize again."),
        20065 => (Reauthorize, "The authorization code was already used; start the authorization again."),
        20066 => (Terminal, "The user's account is not active."),
        20067 => (Bug, "Ask for each scope once."),
        20068 => (Bug, "Ask only for scopes the user granted."),
        20069 => (Config, "Enable the app."),
        20070 => (Bug, "Authenticate in one way only, header or body."),
        20071 => (Config, "Add the redirect URL to the app's list, to the letter."),
        20072 => (Transient, "The vendor's authorization server is unavailable; try again."),
        20073 => (Reauthorize, "The refresh token was already used; read the stored pair again, then ask the user to authorize again."),
        20074 => (Config, "Switch on refreshing of user tokens in the app's security settings."),
        21000 | 21001 => (Terminal, "An access policy of the organisation blocks the user."),

        // App and tenant tokens
        10012 => (Config, "The app ticket or token is invalid; have the ticket sent again and check the credentials."),
        10013 => (Config, "The tenant token cannot be fetched; check the app's credentials and installation."),
        10014 => (Config, "The app cannot be used; enable it."),
        10015 | 99991543 => (Config, "Correct the app id and app secret."),
        99991661 => (Bug, "Send an Authorization header."),
        99991662 => (Config, "Enable the app."),
        99991663 => (TokenInvalid(Tenant), "Fetch a new tenant token; if that fails too, this API does not take tenant tokens."),
        99991664 => (TokenInvalid(App), "Fetch a new app token."),
        99991665 => (TokenInvalid(Tenant), "Fetch a new tenant token; the tenant is not recognised."),
        99991668 => (TokenInvalid(User), "Refresh the user's token; if that fails too, this API does not take user tokens."),
        99991669 => (Reauthorize, "The refresh token is invalid; ask the user to authorize again."),
        99991671 => (TokenInvalid(Tenant), "Fetch a new token; this one is not a token of the vendor's."),
        99991672 => (Terminal, "Enable the scope for the app and publish a version."),
        99991673 => (Terminal, "Make the app available in the organisation."),
        99991676 => (Terminal, "The token lacks the permission."),
        99991677 => (TokenInvalid(User), "Refresh the user's token."),
        99991679 => (Reauthorize, "Ask the user to grant the missing scopes."),
        99991401 => (Config, "Add the function's address to the app's list of allowed addresses."),
        99991403 => (Terminal, "The organisation's monthly call quota is used up."),

        // Throttling
        99991400 | 230020 | 232019 | 11232 | 11233 | 11247 | 190005 | 1000004 | 1000005 | 1254290 =>
            (RateLimited, "Slow down: the vendor's rate limit is reached."),

        // The vendor's own troubles
        230049 | 18121 => (Transient, "The same request is still being carried out; wait for it."),
        232096 | 96002 | 96201 | 1500 | 1663 | 1668 | 2200 | 40003 | 1061001 | 1066001 =>
            (Transient, "The vendor failed inside; try again."),
        1061045 | 1066002 | 1254291 => (Transient, "Another write is in progress; send writes one at a time."),

        // Requests that are wrong
        9499 | 99992402 | 230001 | 232001 | 234001 | 40001 | 1061002 | 10002 | 10003 | 100030 =>
            (Bug, "Correct the request: a parameter is missing or wrong."),
        40012 => (Bug, "Send the page token as it was given."),
        99992351 | 99992354 | 99992356 => (Bug, "The id does not exist; a card token is not a message id."),
        99992361 => (Bug, "The open_id belongs to another app; use union_id across apps."),
        11310 | 11311 | 230099 => (Bug, "The card is not valid; the message says which element."),
        100000 | 230025 => (Bug, "Shorten the content: text to 150 KB, cards to 30 KB."),
        200310 => (Bug, "The card was sent by another app; only that app can update it."),
        200320 | 300090 => (Bug, "Name the right open_ids for a card that is not shared."),
        300020 => (Bug, "Send the card token as the callback gave it."),
        230054 => (Bug, "The message type does not support this."),
        230055 => (Bug, "Send the file as the type it was uploaded as."),
        1254015 => (Bug, "The value does not fit the field's type."),
        1254045 => (Bug, "No such field in the table."),
        1254064 => (Bug, "Write dates as milliseconds."),
        1254066 => (Bug, "Write people as a list of ids."),
        1254068 => (Bug, "Write links as text and link."),
        1254104 => (Bug, "Split the batch: at most 500 records."),
        1310211 => (Bug, "No such sheet in the spreadsheet."),
        1310246 => (Bug, "The floating image is not valid."),

        // The app's settings
        230006 | 234007 => (Config, "Switch on the app's bot."),
        40004 | 40014 => (Config, "Widen the app's contact scope."),
        200340 => (Config, "Set the request URL under Callback Subscription."),
        200341 => (Bug, "Answer card callbacks within 3 seconds."),
        200343 => (Bug, "Answer card callbacks with a toast or a card."),

        // Messages and chats that cannot be had
        230002 => (Terminal, "Add the bot to the group."),
        230009 | 230026 => (Terminal, "The message can no longer be recalled by this app."),
        200000 | 230011 => (Terminal, "The message was recalled."),
        230013 => (Terminal, "Let the user use the bot: widen the app's availability."),
        230015 => (Terminal, "A direct chat cannot be shared."),
        230017 => (Terminal, "Upload the file as this app first."),
        230018 | 230035 => (Terminal, "The chat's settings forbid sending."),
        230019 => (Terminal, "The topic no longer exists."),
        230022 => (Terminal, "The content was refused as sensitive."),
        230027 => (Terminal, "The app may not do this in this chat."),
        230028 => (Terminal, "Data loss prevention refused the content."),
        230029 => (Terminal, "The user has resigned."),
        230031 => (Terminal, "Cards older than 14 days cannot be updated; send a new one."),
        230034 => (Terminal, "The receiver's id is not valid."),
        230036 => (Terminal, "The organisation's encryption key was deleted."),
        230038 => (Terminal, "Bots cannot write to users of other organisations."),
        230050 => (Terminal, "The message is not visible to this app."),
        230053 => (Terminal, "The user has stopped the bot."),
        230071 => (Terminal, "Only the sender can change a message."),
        230072 => (Terminal, "The message was edited 20 times; send a new one."),
        230073 | 230074 => (Terminal, "The group is secret or encrypted."),
        230075 => (Terminal, "The time to edit is over, or the chat is encrypted."),
        230110 => (Terminal, "The message was deleted."),
        232002 | 232016 => (Terminal, "Only the group's owner may do this."),
        232009 => (Terminal, "The chat was dissolved."),
        232011 => (Terminal, "Add the bot to the chat."),
        232014 => (Terminal, "The app has no permission in this chat."),
        300030 => (Terminal, "The card token expired after 30 minutes; update the message itself."),
        300040 => (Terminal, "The card token is used up; update the message itself."),
        11101 | 11203 | 11204 | 11205 | 11207 | 11209 | 11210 | 11223 | 11227 | 11231 | 11235 | 11246 | 11312 =>
            (Terminal, "The batch was refused; the message says why."),

        // Files, contacts and documents
        234002 => (TokenInvalid(Tenant), "Fetch a new tenant token."),
        234006 => (Terminal, "Send a smaller file: images to 10 MB, files to 30 MB."),
        234010 => (Terminal, "The file is empty."),
        234011 => (Terminal, "The image's format is not supported."),
        234039 => (Terminal, "The image has too many pixels."),
        234041 | 234042 => (Terminal, "The organisation's storage is full or unavailable."),
        40008 => (Terminal, "No such user or department in the app's contact scope."),
        1061003 | 1061041 => (Terminal, "The document or its folder does not exist."),
        1061004 | 1061005 => (Terminal, "Give the app or user access to the document."),
        1064510 => (Terminal, "Documents cannot cross organisations."),
        1064511 => (Terminal, "Documents cannot cross from Feishu to Lark."),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(class: Class, codes: &[i64]) {
        for &code in codes {
            assert_eq!(classify(code, 400), class, "{code}");
            assert_eq!(classify(code, 200), class, "{code} does not depend on the status");
            let advice = advice(code);
            assert!(advice.ends_with('.') && advice.len() < 120, "{code}: {advice}");
        }
    }

    #[test]
    fn a_rejected_token_is_dropped_according_to_its_kind() {
        check(Class::TokenInvalid(Token::Tenant), &[99991663, 99991665, 99991671, 234002]);
        check(Class::TokenInvalid(Token::App), &[99991664]);
        check(Class::TokenInvalid(Token::User), &[99991668, 99991677, 20005]);
    }

    #[test]
    fn what_only_the_person_can_mend_asks_for_authorization() {
        check(Class::Reauthorize, &[20003, 20004, 20007, 20026, 20037, 20049, 20064, 20065, 20073, 99991669, 99991679]);
    }

    #[test]
    fn throttling_waits() {
        let codes = [99991400, 230020, 232019, 11232, 11233, 11247, 190005, 1000004, 1000005, 1254290];
        check(Class::RateLimited, &codes);
        assert!(Class::RateLimited.is_retryable());
    }

    #[test]
    fn the_vendors_troubles_are_tried_again() {
        check(
            Class::Transient,
            &[
                20050, 20072, 1066001, 1066002, 1061045, 1061001, 1254291, 96002, 96201, 1500, 1663, 1668, 2200,
                230049, 18121, 232096, 40003,
            ],
        );
        assert!(Class::Transient.is_retryable());
    }

    #[test]
    fn what_can_never_succeed_is_dropped() {
        check(
            Class::Terminal,
            &[
                20008, 20009, 20010, 20021, 20022, 20023, 20066, 21000, 21001, 200000, 230002, 230009, 230011, 230013,
                230015, 230017, 230018, 230019, 230022, 230026, 230027, 230028, 230029, 230031, 230034, 230035, 230036,
                230038, 230050, 230053, 230071, 230072, 230073, 230074, 230075, 230110, 232002, 232009, 232011, 232014,
                232016, 300030, 300040, 99991403, 99991672, 99991673, 99991676, 11101, 11203, 11204, 11205, 11207,
                11209, 11210, 11223, 11227, 11231, 11235, 11246, 11312, 234006, 234010, 234011, 234039, 234041, 234042,
                40008, 1061003, 1061004, 1061005, 1061041, 1064510, 1064511,
            ],
        );
        assert!(!Class::Terminal.is_retryable());
    }

    #[test]
    fn settings_and_requests_that_are_wrong_are_told_apart() {
        check(
            Class::Config,
            &[
                20002, 20024, 20027, 20048, 20069, 20071, 20074, 10012, 10013, 10014, 10015, 99991401, 99991543,
                99991662, 230006, 234007, 40004, 40014, 200340,
            ],
        );
        check(
            Class::Bug,
            &[
                20001, 20036, 20063, 20067, 20068, 20070, 9499, 99992402, 230001, 234001, 40001, 40012, 1061002, 10002,
                10003, 100000, 100030, 11310, 11311, 230025, 230054, 230055, 230099, 200310, 200320, 300020, 300090,
                99991661, 99992351, 99992354, 99992356, 99992361, 1254015, 1254045, 1254064, 1254066, 1254068, 1254104,
                1310211, 1310246, 200341, 200343,
            ],
        );
    }

    #[test]
    fn an_unknown_code_is_judged_by_its_status() {
        for (status, class) in [
            (200, Class::Terminal),
            (400, Class::Terminal),
            (401, Class::TokenInvalid(Token::Tenant)),
            (403, Class::Terminal),
            (404, Class::Terminal),
            (408, Class::Transient),
            (429, Class::RateLimited),
            (500, Class::Transient),
            (503, Class::Transient),
        ] {
            assert_eq!(classify(123_456_789, status), class, "{status}");
        }
        assert!(!is_known(123_456_789) && advice(123_456_789).contains("documentation"));
        assert_eq!(classify(0, 200), Class::Ok);
    }
}
