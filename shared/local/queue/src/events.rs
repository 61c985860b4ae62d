//! EventBridge: buses, rules, targets and PutEvents.
