"""Checkers of histories: what clients of a real group did and saw, judged from outside."""
