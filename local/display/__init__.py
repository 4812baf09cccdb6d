"""The event display: prints each event that the Broker delivers, and shows requests on a live page.

event_form     an event as Knative's event_display prints it
subscription   follows the Broker's activity
direct         the calls that Send answers itself; `send` serves Send with an eye on them
requests       the newest requests, each `tracked` by its state, attempts and timeline
tries          the attempts: what each has come to, and when
timeline       the entries of a timeline, in words
contents       what was sent and answered, in full
masking        what is secret in it
caller         what the page sends
page           the routes; `static/` is what the browser runs
"""
