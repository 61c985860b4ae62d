//! What makes functions run by themselves: event source mappings, schedules, notifications and rules.
