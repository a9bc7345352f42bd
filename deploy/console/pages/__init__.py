"""The pages, a file each: what they show (`RULES`), and what can be done on them (`ACTIONS`)."""
