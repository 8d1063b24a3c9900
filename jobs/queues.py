"""The queues of every system: their names, and how their jobs are run and kept.

`key` and `aliases` are what the five documents call them; the first alias, where there is one, is
the name that their routes print.
"""

from jobserver import Queue, Retention, exponential

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR

BY_COUNT = Retention(completed_count=100, failed_count=500)
BY_AGE = Retention(completed_age=DAY, failed_age=7 * DAY)

# The seconds between attempts double from 2, those of user-sync grow fivefold from 5. Jobs that
# wait for others (a vendor's API, a database) run in threads, so that many of them can wait.

PRODUCT_SYNC = Queue(
    "product-sync",
    key="PRODUCT_SYNC",
    attempts=3,
    backoff=exponential(2),
    timeout=2 * MINUTE,
    retention=Retention(
        completed_count=100, completed_age=7 * DAY, failed_count=500, failed_age=7 * DAY
    ),
)
USER_DATA = Queue(
    "user-data",
    key="USER_DATA",
    planned=("sellers.process_user_data",),
    executor="thread",
    concurrency=3,
    attempts=3,
    backoff=exponential(2),
)
USER_SYNC = Queue(
    "user-sync",
    key="USER_SYNC",
    executor="thread",
    global_concurrency=1,
    attempts=3,
    backoff=exponential(5, factor=5),
    timeout=20 * MINUTE,
    retention=Retention(completed_count=10, failed_count=20),
)
WHATSAPP = Queue(
    "whatsapp",
    key="WHATSAPP",
    aliases=("whatsapp-messages",),
    planned=("whatsapp.message",),
    executor="thread",
    concurrency=5,
    attempts=3,
    backoff=exponential(2),
    retention=BY_COUNT,
)
CREDIT_SCORE = Queue(
    "credit-score",
    key="CREDIT_SCORE",
    planned=("orders.calculate_credit_score",),
    concurrency=2,
    attempts=3,
    backoff=exponential(2),
    retention=BY_COUNT,
)
ORDER_ROUTING = Queue(
    "order-routing",
    key="ORDER_ROUTING",
    planned=("orders.route_order", "orders.retry_routing"),
    executor="thread",
    concurrency=3,
    attempts=3,
    backoff=exponential(2),
    retention=BY_COUNT,
)
PAYMENT_REMINDERS = Queue(
    "payment-reminders",
    key="PAYMENT_REMINDERS",
    planned=("orders.send_payment_reminder",),
    executor="thread",
    concurrency=3,
    attempts=3,
    backoff=exponential(2),
    retention=BY_COUNT,
)
# Two documents have a REPORT_GENERATION: one queue, two types, of which the business report has
# 3 attempts by a policy of its own.
REPORTS = Queue(
    "reports",
    key="REPORT_GENERATION",
    aliases=("report-generation",),
    planned=("reports.generate_credit_report", "reports.generate_business_report"),
    global_concurrency=1,
    attempts=2,
    backoff=exponential(2),
    timeout=5 * MINUTE,
    retention=BY_COUNT,
)
ORDER_PROCESSING = Queue(
    "order-processing",
    key="ORDER_PROCESSING",
    planned=("orders.process_order",),
    executor="thread",
    concurrency=5,
    attempts=3,
    backoff=exponential(2),
    retention=BY_COUNT,
)
DATA_SYNC = Queue(
    "data-sync",
    key="DATA_SYNC",
    planned=("integrations.sync_data",),
    executor="thread",
    concurrency=2,
    attempts=3,
    backoff=exponential(2),
    timeout=5 * MINUTE,
    retention=BY_AGE,
)
INSIGHTS = Queue(
    "insights",
    key="INSIGHTS_GENERATION",
    aliases=("insights-generation",),
    planned=("insights.generate_insights",),
    concurrency=2,
    attempts=3,
    backoff=exponential(2),
    timeout=3 * MINUTE,
    retention=BY_AGE,
)
WEBHOOKS = Queue(
    "webhooks",
    key="WEBHOOK_PROCESSING",
    aliases=("webhook-processing",),
    planned=("webhooks.process_webhook",),
    executor="thread",
    concurrency=10,
    attempts=3,
    backoff=exponential(2),
    timeout=30,
    retention=BY_AGE,
)
EMAIL = Queue(
    "email",
    key="EMAIL_SENDING",
    aliases=("email-sending",),
    planned=("email.send_email",),
    executor="thread",
    concurrency=10,
    attempts=3,
    backoff=exponential(2),
    timeout=10,
    retention=BY_AGE,
)
ALERTS = Queue(
    "alerts",
    key="ALERTS",
    planned=("alerts.create_alert",),
    executor="thread",
    concurrency=10,
    attempts=3,
    backoff=exponential(2),
    retention=BY_AGE,
)
