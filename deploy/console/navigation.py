"""The pages of the menu."""

from typing import Final

PAGES: Final = (
    ("/", "Now"),
    ("/events", "Events"),
    ("/failures", "Failures"),
    ("/rejected", "Rejected"),
    ("/refused", "Refused"),
    ("/tenants", "Tenants"),
    ("/endpoints", "Endpoints"),
    ("/handlers", "Handlers"),
    ("/deliveries", "Deliveries"),
    ("/jobs", "Jobs"),
    ("/alerts", "Alerts"),
    ("/audit", "Audit"),
)
