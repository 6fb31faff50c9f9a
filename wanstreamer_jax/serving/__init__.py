"""An agent for people: a media file streamed through it."""
