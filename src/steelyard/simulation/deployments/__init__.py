"""Deployments that divide one machine."""
