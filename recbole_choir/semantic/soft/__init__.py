"""Soft groups: at each snapshot a user is a set of weights over other users."""
