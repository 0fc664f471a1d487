"""Signals, traits and segments of traits: who is known to have what, whether or not they are profiles of the project."""
