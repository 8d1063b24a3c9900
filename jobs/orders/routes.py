"""`/api/orders`: what is done to an order, in the background."""

from flask import Blueprint, Response, jsonify
from marshmallow import Schema, fields

from jobserver import JobServer, enqueue

orders = Blueprint("orders", __name__, url_prefix="/api/orders")


class ProcessingSchema(Schema):
    """That something is being done."""

    success = fields.Boolean(required=True)
    message = fields.String(required=True)


@orders.post("/<order_id>/confirm")
@JobServer.idempotent
@JobServer.describe(answers={202: ProcessingSchema}, errors=(501,))
def confirm(order_id: str) -> tuple[Response, int]:
    """Confirm an order: its notifications and the credit score follow in the background."""
    enqueue("orders.process_order", {"action": "CONFIRM", "orderId": order_id})
    return jsonify({"success": True, "message": "Processing"}), 202
