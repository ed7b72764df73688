"""Programs that measure; nothing else imports them."""
