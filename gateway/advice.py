"""What a receipt means for whoever sent the notification, and what to do about it."""

from __future__ import annotations

STATES = {
    "pending": "Not done yet: it waits for its turn, for its time or for another try.",
    "accepted": "The push service took it. Whether and when the device shows it is between the two of them.",
    "rejected": "It will never be taken as it is, and was not tried again.",
    "invalid_token": "The target is dead: delete it upstream, and register the device anew.",
    "expired": "Its time ran out before it could be sent. Give it a longer ttl if that was too early.",
    "cancelled": "Its job was cancelled before it was sent.",
    "suppressed": "A policy kept it back.",
    "unknown": "It was sent and never answered. It may have arrived; on_unknown=resend tries such again.",
    "dead_lettered": "Given up after too many tries. See dispatch.max_attempts, and whether the service is reachable.",
}

REASONS = {
    "BadDeviceToken": "The device token is malformed or from the other environment: compare `environment` with the "
    "build that registered it (TestFlight and the App Store are production).",
    "DeviceTokenNotForTopic": "The token belongs to another app: compare `topic` with the bundle id.",
    "ExpiredToken": "The app registered anew or was removed: use its newer token.",
    "Unregistered": "The app was removed from the device, or registered anew.",
    "PayloadTooLarge": "The payload is over 4,096 bytes (5,120 for VoIP): shorten it, or send a link.",
    "TopicDisallowed": "The key may not send to this topic: check `topic`, `team_id` and the key's scope.",
    "BadTopic": "`topic` is not an app's bundle id.",
    "InvalidProviderToken": "Apple does not know this signature: check `team_id`, `key_id` and `key_file`.",
    "UNREGISTERED": "The app was removed, or its registration token replaced.",
    "SENDER_ID_MISMATCH": "The registration token belongs to another Firebase project than the service account.",
    "INVALID_ARGUMENT": "FCM found a field or the token malformed: check the message's `fcm` block.",
    "THIRD_PARTY_AUTH_ERROR": "FCM could not sign in to Apple or a browser's service: check its keys in Firebase.",
    "QUOTA_EXCEEDED": "The project's rate is used up: lower `rate`, or ask Google for more.",
}
"""By the services' own words, for those that a person meets by hand."""


def advice(state: str, reason: str) -> str:
    """Sentences for people: the state's, then the reason's if there is one."""
    return " ".join(filter(None, (STATES.get(state, ""), REASONS.get(reason, ""))))
